// SPDX-License-Identifier: MIT
// Integer coordinates packed into words so that a step along an axis is one addition.
#pragma once

#include <array>
#include <cstdint>

namespace crfrnn {

// An unsigned integer of 64 W bits, most significant word first.
template <int W>
struct Key {
  std::array<uint64_t, W> word;  // not initialised by default: arrays of keys are filled at once

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
    const int at = W - 1 - shift / 64, rest = shift % 64;
    uint64_t bits = word[at] >> rest;
    if (rest && at > 0) bits |= word[at - 1] << (64 - rest);
    return static_cast<uint32_t>(bits) & mask;
  }
  uint64_t hash() const {
    if constexpr (W == 1) return (word[0] * 0x9e3779b97f4a7c15ull) >> 32;
    uint64_t h = 0;
    for (const uint64_t w : word) h = (h ^ w) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }
};

template <int W>
Key<W> key_of(int64_t value) {  // sign-extended, so that adding a negative step carries through all words
  Key<W> r;
  r.word.fill(value < 0 ? ~uint64_t{0} : 0);
  r.word[W - 1] = static_cast<uint64_t>(value);
  return r;
}

}  // namespace crfrnn
