// SPDX-License-Identifier: MIT
// Distinct keys, by hashing for a small set and by sorting for a large one; and the rings of missing vertices
// around them.
#pragma once

#include <algorithm>
#include <utility>

#include "keys.hpp"
#include "layout.hpp"
#include "list.hpp"
#include "sort.hpp"

namespace crfrnn {

// Keys most of which recur soon. Each is stored when it is first seen, and occasionally again if another key
// has taken its slot. Whether a key is present is unpredictable, so the code is branch-free.
template <int W>
class RecentKeys {
 public:
  explicit RecentKeys(size_t most) : keys_(most + 1), slots_(slot_count, 0) { keys_[0] = Key<W>::zero(); }

  int32_t place_of(const Key<W>& key) {
    int32_t& slot = slots_[key.hash() & (slot_count - 1)];
    const bool there = (slot != 0) & (keys_[static_cast<size_t>(slot)] == key);
    count_ += !there;
    // written one past the last key if the key is already present, which has no effect
    keys_[static_cast<size_t>(count_ + there)] = key;
    slot = there ? slot : count_;
    return slot - 1;
  }
  List<Key<W>> keys() const { return {keys_.data() + 1, keys_.data() + 1 + count_}; }

 private:
  static constexpr size_t slot_count = 1 << 14;
  Array<Key<W>> keys_;  // index 0 is a placeholder
  List<int32_t> slots_;
  int32_t count_ = 0;
};

// The starts of the runs of equal items among n items, followed by n; same(i) tells whether item i equals the
// previous one.
template <class Same>
List<int32_t> run_starts(int64_t n, int threads, const Same& same) {
  constexpr int64_t part = 1 << 14;
  List<List<int32_t>> lists(static_cast<size_t>((n + part - 1) / part));
  parallel_for(static_cast<int64_t>(lists.size()), threads, [&](int64_t c, int) {
    List<int32_t> own(static_cast<size_t>(part));
    size_t found = 0;
    const int64_t end = std::min(n, (c + 1) * part);
    for (int64_t i = c * part; i < end; ++i) {  // always written, because a branch would be unpredictable
      own[found] = static_cast<int32_t>(i);
      found += i == 0 || !same(i);
    }
    own.resize(found);
    lists[static_cast<size_t>(c)] = std::move(own);
  });
  List<int32_t> out;
  for (const auto& list : lists) out.insert(out.end(), list.begin(), list.end());
  out.push_back(static_cast<int32_t>(n));
  return out;
}

template <int W>
struct Sorted {
  List<Key<W>> keys;        // distinct, ascending
  Array<int32_t> position;  // index in `keys` of each input item
};

// Sorts keys (given as one list per chunk) and removes duplicates.
template <int W>
Sorted<W> sort_unique(List<List<Key<W>>> lists, int threads) {
  List<size_t> offset(lists.size() + 1, 0);
  for (size_t i = 0; i < lists.size(); ++i) offset[i + 1] = offset[i] + lists[i].size();
  Array<Keyed<W>> items(offset.back());
  parallel_for(static_cast<int64_t>(lists.size()), threads, [&](int64_t c, int) {
    const List<Key<W>> list = std::move(lists[static_cast<size_t>(c)]);
    const size_t at = offset[static_cast<size_t>(c)];
    for (size_t i = 0; i < list.size(); ++i) items[at + i] = {list[i], static_cast<int32_t>(at + i)};
  });
  sort_keyed(items, threads);
  const auto starts = run_starts(static_cast<int64_t>(items.size()), threads, [&](int64_t i) {
    return items[static_cast<size_t>(i)].key == items[static_cast<size_t>(i) - 1].key;
  });
  const int64_t distinct = static_cast<int64_t>(starts.size()) - 1;
  Sorted<W> out;
  out.position = Array<int32_t>(items.size());
  out.keys.resize(static_cast<size_t>(distinct));
  parallel_ranges(distinct, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const size_t first = static_cast<size_t>(starts[static_cast<size_t>(k)]),
                   last = static_cast<size_t>(starts[static_cast<size_t>(k) + 1]);
      out.keys[static_cast<size_t>(k)] = items[first].key;
      for (size_t i = first; i < last; ++i)
        out.position[static_cast<size_t>(items[i].value)] = static_cast<int32_t>(k);
    }
  });
  return out;
}

// Adds the missing vertices that have at least `support` neighbours among the keys.
template <int W>
List<Key<W>> grow(const List<Key<W>>& keys, const Layout& layout, int support, int threads) {
  const int steps = 2 * (layout.dim + 1);
  Array<Keyed<W>> items(keys.size() * static_cast<size_t>(steps + 1));
  for (int j = 0; j <= steps; ++j) {
    const Key<W> step =
        j == steps ? Key<W>::zero() : (j % 2 ? -layout.step<W>(j / 2) : layout.step<W>(j / 2));
    const size_t at = keys.size() * static_cast<size_t>(j);
    each_in_turn(0, static_cast<int64_t>(keys.size()), [&](int64_t i) {
      items[at + static_cast<size_t>(i)] = {keys[static_cast<size_t>(i)] + step, j == steps};
    });
  }
  sort_keyed(items, threads);
  List<Key<W>> out;
  for (size_t i = 0, asked = 0; i < items.size();) {
    if (i >= asked) {
      check_stop();
      asked = i + unasked;
    }
    size_t end = i;
    bool present = false;
    for (; end < items.size() && items[end].key == items[i].key; ++end) present |= items[end].value != 0;
    if (present || end - i >= static_cast<size_t>(support)) out.push_back(items[i].key);
    i = end;
  }
  return out;
}

}  // namespace crfrnn
