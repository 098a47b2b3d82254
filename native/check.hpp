// SPDX-License-Identifier: MIT
// Range checks of the numbers in a table, see verify.cpp. The loops have no branches, so that they vectorise.
#pragma once

#include <cstdint>

namespace crfrnn {

struct CheckTable {
  // Whether low <= x < high, or x = absent, for all n numbers.
  bool (*within)(const int32_t* numbers, int64_t n, int64_t low, int64_t high, int64_t absent);
  // Whether 0 <= x < count for all n numbers; adds them to `sum`.
  bool (*indices)(const int32_t* numbers, int64_t n, int64_t count, uint64_t& sum);
  // Whether n + 1 places go from 0 to `last`, each at least `step` greater than the previous one.
  bool (*ascends)(const int32_t* places, int64_t n, int64_t last, int64_t step);
  bool (*below)(const uint8_t* numbers, int64_t n, uint8_t limit);
};

}  // namespace crfrnn
