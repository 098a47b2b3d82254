// SPDX-License-Identifier: MIT
// Looking through the numbers of a table, see verify.cpp. No loop has a branch, so that many numbers are
// looked at together.
#pragma once

#include <cstdint>

namespace crfrnn {

struct CheckTable {
  // low <= x < high, or x = absent, for all n numbers.
  bool (*within)(const int32_t* numbers, int64_t n, int64_t low, int64_t high, int64_t absent);
  // 0 <= x < count for all n numbers; adds them to `sum`.
  bool (*indices)(const int32_t* numbers, int64_t n, int64_t count, uint64_t& sum);
  // n + 1 places from 0 to `last`, each at least `step` after the one before.
  bool (*ascends)(const int32_t* places, int64_t n, int64_t last, int64_t step);
  bool (*below)(const uint8_t* numbers, int64_t n, uint8_t limit);
};

}  // namespace crfrnn
