// SPDX-License-Identifier: MIT
// A stable radix sort of keyed items: first into buckets by the highest bits in which keys differ, then each
// bucket, which fits in the cache, from the lowest bits up. Equal keys keep their order, so the result does
// not depend on the number of threads.
#pragma once

#include <algorithm>
#include <bit>
#include <utility>

#include "array.hpp"
#include "keys.hpp"
#include "list.hpp"
#include "parallel.hpp"
#include "prefetch.hpp"

namespace crfrnn {

template <int W>
struct Keyed {
  Key<W> key;
  int32_t value;
};

// The bits in which some keys differ: bits that all keys have in common need no sorting.
template <int W>
Key<W> differing_bits(const Keyed<W>* items, int64_t n) {
  Key<W> bits = Key<W>::zero();
  each_in_turn(1, n, [&](int64_t i) {
    for (int w = 0; w < W; ++w) bits.word[w] |= items[i].key.word[w] ^ items[0].key.word[w];
  });
  return bits;
}

// Sorts n items, few enough for the cache, from one buffer into the other.
template <int W>
void sort_bucket(Keyed<W>* items, Keyed<W>* out, int64_t n) {
  constexpr int digit = 8;
  constexpr uint32_t buckets = 1u << digit;
  if (n <= 24) {
    for (int64_t i = 0; i < n; ++i) {
      int64_t at = i;
      for (; at > 0 && items[i].key < out[at - 1].key; --at) out[at] = out[at - 1];
      out[at] = items[i];
    }
    return;
  }
  // so many bits that a pass for every eight of them takes longer than comparing the first words
  if constexpr (W > 2) {
    std::copy(items, items + n, out);
    std::sort(out, out + n, [](const Keyed<W>& a, const Keyed<W>& b) {
      return a.key < b.key || (a.key == b.key && a.value < b.value);
    });
    return;
  }
  const Key<W> differing = differing_bits(items, n);
  Keyed<W>*from = items, *to = out;
  uint32_t count[buckets];
  for (int shift = 0; shift < 64 * W; ++shift) {
    if (!differing.bits_at(shift, 1)) continue;
    std::fill(count, count + buckets, 0u);
    for (int64_t i = 0; i < n; ++i) ++count[from[i].key.bits_at(shift, buckets - 1)];
    uint32_t sum = 0;
    for (uint32_t& c : count) sum += std::exchange(c, sum);
    for (int64_t i = 0; i < n; ++i) to[count[from[i].key.bits_at(shift, buckets - 1)]++] = from[i];
    std::swap(from, to);
    shift += digit - 1;
  }
  if (from != out) std::copy(from, from + n, out);
}

// Sorts n items in place; `other` has room for as many.
template <int W>
void sort_items(Keyed<W>* items, Keyed<W>* other, int64_t n, int threads) {
  constexpr int digit = block_size(10, 3);
  constexpr uint32_t buckets = 1u << digit;
  constexpr int64_t cached = block_size(1 << 13, 64);
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, n / cached));
  const auto part = [&](int64_t t) { return n * t / parts; };
  List<Key<W>> differing(static_cast<size_t>(parts));
  parallel_for(parts, threads, [&](int64_t t, int) {
    const int64_t before = t > 0;  // each part also compares with the last item of the previous part
    differing[static_cast<size_t>(t)] =
        differing_bits(items + part(t) - before, part(t + 1) - part(t) + before);
  });
  int top = 0;  // all differing bits are below it
  for (const Key<W>& key : differing)
    for (int bit = 64 * W; bit > top; --bit)
      if (key.bits_at(bit - 1, 1)) top = bit;
  if (top == 0) return;
  const int shift = std::max(0, top - digit);
  const auto bucket = [=](const Keyed<W>& item) { return item.key.bits_at(shift, buckets - 1); };
  List<int64_t> count(static_cast<size_t>(parts) * buckets), begin(buckets + 1);
  parallel_for(parts, threads, [&](int64_t t, int) {
    int64_t* c = count.data() + t * buckets;
    each_in_turn(part(t), part(t + 1), [&](int64_t i) { ++c[bucket(items[i])]; });
  });
  int64_t sum = 0;
  for (uint32_t b = 0; b < buckets; ++b) {
    begin[b] = sum;
    for (int64_t t = 0; t < parts; ++t)
      sum += std::exchange(count[static_cast<size_t>(t) * buckets + b], sum);
  }
  begin[buckets] = n;
  parallel_for(parts, threads, [&](int64_t t, int) {
    int64_t* c = count.data() + t * buckets;
    each_in_turn(part(t), part(t + 1), [&](int64_t i) {
      const int64_t at = c[bucket(items[i])]++;
      prefetch_to_write(other + at + 8);
      other[at] = items[i];
    });
  });
  parallel_for(buckets, threads, [&](int64_t b, int) {
    const int64_t low = begin[static_cast<size_t>(b)], size = begin[static_cast<size_t>(b) + 1] - low;
    if (size <= cached)
      sort_bucket(other + low, items + low, size);
    else
      std::copy_n(other + low, size, items + low);
  });
  for (uint32_t b = 0; b < buckets; ++b)  // buckets that do not fit in the cache are sorted recursively
    if (begin[b + 1] - begin[b] > cached)
      sort_items(items + begin[b], other + begin[b], begin[b + 1] - begin[b], threads);
}

// Sorts n numbers by their bits [low, high), in `passes` passes from the lowest bits up; `other` has room for
// as many. Returns the buffer that holds the result.
template <int passes>
uint64_t* sort_numbers(uint64_t* from, uint64_t* to, int64_t n, int low, int high) {
  constexpr int most_bits = 11;
  const int bits = (high - low + passes - 1) / passes;
  const uint32_t digits = 1u << bits;
  uint32_t count[passes][1 << most_bits];
  for (int p = 0; p < passes; ++p) std::fill(count[p], count[p] + digits, 0u);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t number = from[i] >> low;
    for (int p = 0; p < passes; ++p, number >>= bits) ++count[p][number & (digits - 1)];
  }
  for (int p = 0; p < passes; ++p, low += bits) {
    uint32_t sum = 0;
    for (uint32_t d = 0; d < digits; ++d) sum += std::exchange(count[p][d], sum);
    for (int64_t i = 0; i < n; ++i) to[count[p][from[i] >> low & (digits - 1)]++] = from[i];
    std::swap(from, to);
  }
  return from;
}

// Calls take(key, its index) for n keys in ascending order, in one thread. Equal keys come in any order.
template <int W, class Take>
void each_sorted(const Key<W>* keys, int64_t n, const Take& take) {
  if constexpr (W == 1) {  // key and index in one number, if all bits fit
    uint64_t differing = 0;
    for (int64_t i = 0; i < n; ++i) differing |= keys[i].word[0] ^ keys[0].word[0];
    const int bits = std::bit_width(differing), index_bits = std::bit_width(static_cast<uint64_t>(n));
    if (bits + index_bits <= 64) {
      const uint64_t own = bits ? ~uint64_t{0} >> (64 - bits) : 0, index = (uint64_t{1} << index_bits) - 1;
      Array<uint64_t> numbers(static_cast<size_t>(n)), other(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i)
        numbers[static_cast<size_t>(i)] = (keys[i].word[0] & own) << index_bits | static_cast<uint64_t>(i);
      uint64_t* sorted = numbers.data();
      const int end = index_bits + bits;
      constexpr int64_t counted = block_size(256, 16);
      if (n < counted || bits > 44)  // counting would take longer
        std::sort(sorted, sorted + n);
      else if (bits > 33)
        sorted = sort_numbers<4>(sorted, other.data(), n, index_bits, end);
      else if (bits > 22)
        sorted = sort_numbers<3>(sorted, other.data(), n, index_bits, end);
      else
        sorted = sort_numbers<2>(sorted, other.data(), n, index_bits, end);
      for (int64_t i = 0; i < n; ++i) {
        const uint64_t number = sorted[i];
        take(Key<W>{{(keys[0].word[0] & ~own) | number >> index_bits}}, static_cast<int64_t>(number & index));
      }
      return;
    }
  }
  Array<Keyed<W>> items(static_cast<size_t>(n)), other(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) items[static_cast<size_t>(i)] = {keys[i], static_cast<int32_t>(i)};
  sort_items(items.data(), other.data(), n, 1);
  for (int64_t i = 0; i < n; ++i)
    take(items[static_cast<size_t>(i)].key, items[static_cast<size_t>(i)].value);
}

template <int W>
void sort_keyed(Array<Keyed<W>>& items, int threads) {
  Array<Keyed<W>> other(items.size());
  sort_items(items.data(), other.data(), static_cast<int64_t>(items.size()), threads);
}

}  // namespace crfrnn
