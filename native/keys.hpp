// SPDX-License-Identifier: MIT
// Integer coordinates packed into words so that a step along an axis is one addition, and a sort of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "array.hpp"
#include "parallel.hpp"

namespace crfrnn {

// An unsigned integer of 64 W bits, most significant word first.
template <int W>
struct Key {
  std::array<uint64_t, W> word;  // not set by default: arrays of keys are filled at once

  friend bool operator==(const Key& a, const Key& b) {
    uint64_t difference = 0;
    for (int i = 0; i < W; ++i) difference |= a.word[i] ^ b.word[i];
    return difference == 0;
  }
  friend bool operator<(const Key& a, const Key& b) {
    for (int i = 0; i < W - 1; ++i)
      if (a.word[i] != b.word[i]) return a.word[i] < b.word[i];
    return a.word[W - 1] < b.word[W - 1];
  }

  Key operator+(const Key& other) const {
    if constexpr (W == 1) return Key{{word[0] + other.word[0]}};
    Key r;
    uint64_t carry = 0;
    for (int i = W - 1; i >= 0; --i) {
      const uint64_t s = word[i] + other.word[i];
      r.word[i] = s + carry;
      carry = static_cast<uint64_t>(s < word[i]) | static_cast<uint64_t>(r.word[i] < s);
    }
    return r;
  }
  Key operator-() const {
    if constexpr (W == 1) return Key{{~word[0] + 1}};
    Key r, one = zero();
    for (int i = 0; i < W; ++i) r.word[i] = ~word[i];
    one.word[W - 1] = 1;
    return r + one;
  }
  static Key zero() {
    Key r;
    r.word.fill(0);
    return r;
  }
  Key operator<<(int bits) const {
    if constexpr (W == 1) return Key{{word[0] << bits}};
    Key r = zero();
    const int words = bits / 64, rest = bits % 64;
    for (int i = 0; i + words < W; ++i) {
      r.word[i] = word[i + words] << rest;
      if (rest && i + words + 1 < W) r.word[i] |= word[i + words + 1] >> (64 - rest);
    }
    return r;
  }
  Key operator>>(int bits) const {
    if constexpr (W == 1) return Key{{word[0] >> bits}};
    Key r = zero();
    const int words = bits / 64, rest = bits % 64;
    for (int i = W - 1; i - words >= 0; --i) {
      r.word[i] = word[i - words] >> rest;
      if (rest && i - words - 1 >= 0) r.word[i] |= word[i - words - 1] << (64 - rest);
    }
    return r;
  }
  uint32_t bits_at(int shift, uint32_t mask) const {
    if constexpr (W == 1) return static_cast<uint32_t>(word[0] >> shift) & mask;
    return static_cast<uint32_t>((*this >> shift).word[W - 1]) & mask;
  }
  int64_t low_bits(int bits) const { return static_cast<int64_t>(word[W - 1] & ((uint64_t{1} << bits) - 1)); }
  uint64_t hash() const {
    if constexpr (W == 1) return (word[0] * 0x9e3779b97f4a7c15ull) >> 32;
    uint64_t h = 0;
    for (const uint64_t w : word) h = (h ^ w) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }
};

template <int W>
Key<W> key_of(int64_t value) {  // sign-extended, so that additions of negative steps carry through all words
  Key<W> r;
  r.word.fill(value < 0 ? ~uint64_t{0} : 0);
  r.word[W - 1] = static_cast<uint64_t>(value);
  return r;
}

template <int W>
struct Keyed {
  Key<W> key;
  int32_t value;
};

// Stable radix sort by the low `bits` bits: the result does not depend on the number of threads.
template <int W>
void sort_keyed(Array<Keyed<W>>& items, int bits, int threads) {
  constexpr int digit = 11;
  constexpr uint32_t buckets = 1u << digit;
  const int64_t n = static_cast<int64_t>(items.size());
  const int parts = n < 1 << 14 ? 1 : std::max(threads, 1);
  Array<Keyed<W>> other(items.size());
  std::vector<int64_t> count(static_cast<size_t>(parts) * buckets);
  for (int shift = 0; shift < bits; shift += digit) {
    const uint32_t mask = shift + digit <= bits ? buckets - 1 : (1u << (bits - shift)) - 1;
    std::fill(count.begin(), count.end(), 0);
    parallel_for(parts, threads, [&](int64_t t, int) {
      int64_t* c = count.data() + t * buckets;
      for (int64_t i = n * t / parts; i < n * (t + 1) / parts; ++i) ++c[items[i].key.bits_at(shift, mask)];
    });
    int64_t sum = 0;
    for (uint32_t b = 0; b < buckets; ++b)
      for (int t = 0; t < parts; ++t) sum += std::exchange(count[static_cast<size_t>(t) * buckets + b], sum);
    parallel_for(parts, threads, [&](int64_t t, int) {
      int64_t* c = count.data() + t * buckets;
      for (int64_t i = n * t / parts; i < n * (t + 1) / parts; ++i)
        other[static_cast<size_t>(c[items[i].key.bits_at(shift, mask)]++)] = items[i];
    });
    items.swap(other);
  }
}

}  // namespace crfrnn
