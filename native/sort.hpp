// SPDX-License-Identifier: MIT
// A stable radix sort of keyed items: first into buckets by the highest bits in which keys differ, then each
// bucket, which fits in the cache, from the lowest bits up. Equal keys keep their order, so the result does
// not depend on the number of threads.
#pragma once

#include <algorithm>
#include <utility>

#include "array.hpp"
#include "keys.hpp"
#include "list.hpp"
#include "parallel.hpp"

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
  constexpr int digit = 10;
  constexpr uint32_t buckets = 1u << digit;
  constexpr int64_t cached = 1 << 13;
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
    each_in_turn(part(t), part(t + 1), [&](int64_t i) { other[c[bucket(items[i])]++] = items[i]; });
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

template <int W>
void sort_keyed(Array<Keyed<W>>& items, int threads) {
  Array<Keyed<W>> other(items.size());
  sort_items(items.data(), other.data(), static_cast<int64_t>(items.size()), threads);
}

}  // namespace crfrnn
