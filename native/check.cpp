// SPDX-License-Identifier: MIT
#include "check.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

bool within(const int32_t* numbers, int64_t n, int64_t low, int64_t high, int64_t absent) {
  const uint32_t first = static_cast<uint32_t>(low), count = static_cast<uint32_t>(high - low),
                 none = static_cast<uint32_t>(absent);
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t x = static_cast<uint32_t>(numbers[i]);
    bad |= static_cast<uint32_t>(x - first >= count) & static_cast<uint32_t>(x != none);
  }
  return bad == 0;
}

bool indices(const int32_t* numbers, int64_t n, int64_t count, uint64_t& sum) {
  const uint32_t most = static_cast<uint32_t>(count);
  uint32_t bad = 0;
  uint64_t all = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t x = static_cast<uint32_t>(numbers[i]);
    bad |= static_cast<uint32_t>(x >= most);
    all += x;
  }
  sum += all;
  return bad == 0;
}

// For two non-negative numbers, the 32-bit difference has the sign of the true difference.
bool ascends(const int32_t* places, int64_t n, int64_t last, int64_t step) {
  if (places[0] != 0 || places[n] != last) return false;
  const uint32_t least = static_cast<uint32_t>(step);
  uint32_t signs = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t here = static_cast<uint32_t>(places[i]), up = static_cast<uint32_t>(places[i + 1]) - here;
    signs |= here | up | (up - least);
  }
  return signs >> 31 == 0;
}

bool below(const uint8_t* numbers, int64_t n, uint8_t limit) {
  uint8_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = numbers[i] > most ? numbers[i] : most;
  return n == 0 || most < limit;
}

}  // namespace

const CheckTable& check_table() {
  static const CheckTable table{&within, &indices, &ascends, &below};
  return table;
}

}  // namespace crfrnn::CRFRNN_ISA
