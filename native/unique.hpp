// SPDX-License-Identifier: MIT
// Distinct keys, by hashing; runs of equal items; and the rings of missing vertices around a set of keys.
#pragma once

#include <algorithm>
#include <utility>

#include "keys.hpp"
#include "layout.hpp"
#include "list.hpp"
#include "sort.hpp"

namespace crfrnn {

// Keys most of which recur soon. Each is stored when it is first seen, and occasionally again if another key
// has taken its slot. Whether a key is present is unpredictable, so the code is branch-free. A slot holds the
// key itself: comparing with the stored keys would make each look-up wait for the addresses of earlier
// stores.
template <int W>
class RecentKeys {
 public:
  explicit RecentKeys(size_t most) : keys_(most + 1), slots_(slot_count, Slot{Key<W>::zero(), -1}) {}

  int32_t place_of(const Key<W>& key) {
    Slot& slot = slots_[key.hash() & (slot_count - 1)];
    const int32_t there = static_cast<int32_t>(slot.place >= 0) & static_cast<int32_t>(slot.key == key);
    keys_[static_cast<size_t>(count_)] = key;  // has no effect if the key is already present
    const int32_t place = count_ + ((slot.place - count_) & -there);
    slot = {key, place};
    count_ += 1 - there;
    return place;
  }
  List<Key<W>> keys() const { return {keys_.data(), keys_.data() + count_}; }

 private:
  static constexpr size_t slot_count = block_size(1 << 13, 16);
  struct Slot {
    Key<W> key;
    int32_t place;
  };
  Array<Key<W>> keys_;
  List<Slot> slots_;
  int32_t count_ = 0;
};

// All lists, one after the other, with room for `more` items.
template <class T>
List<T> joined(List<List<T>> lists, size_t more = 0) {
  for (const auto& list : lists) more += list.size();
  List<T> out;
  out.reserve(more);
  for (auto& list : lists) {
    check_stop();
    out.insert(out.end(), list.begin(), list.end());
    List<T>().swap(list);
  }
  return out;
}

// The starts of the runs of equal items among n items, followed by n; same(i) tells whether item i equals the
// previous one.
template <class Same>
List<int32_t> run_starts(int64_t n, int threads, const Same& same) {
  constexpr int64_t part = block_size(1 << 14, 16);
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
  List<int32_t> out = joined(std::move(lists), 1);
  out.push_back(static_cast<int32_t>(n));
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
  List<List<Key<W>>> pieces;  // a single list would be moved whenever it grows, up to a second without a stop
  for (size_t i = 0, asked = 0; i < items.size();) {
    if (i >= asked) {
      check_stop();
      asked = i + unasked;
      pieces.emplace_back();
    }
    size_t end = i;
    bool present = false;
    for (; end < items.size() && items[end].key == items[i].key; ++end) present |= items[end].value != 0;
    if (present || end - i >= static_cast<size_t>(support)) pieces.back().push_back(items[i].key);
    i = end;
  }
  return joined(std::move(pieces));
}

}  // namespace crfrnn
