// SPDX-License-Identifier: MIT
// The memory layout of the rows of lattice vertices.
#pragma once

#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

// Prefetches the row of a later point from an array [total][channels] of points in their own order, where
// accesses are scattered.
template <class T>
CRFRNN_INLINE void ask_scattered(const int32_t* order, int64_t points, int64_t p, const T* columns,
                                 int64_t channels, int packs) {
  if (p + ahead >= points) return;
  const T* early = columns + int64_t{order[p + ahead]} * channels;
  for (int b = 0; b < packs; ++b) prefetch(early + b * Pack<T>::lanes);
}

// NB packs, or a runtime number of packs (NB = 0); of the last pack, only the part that the columns need. NB
// = -4 and -8: narrow rows of so many columns, several of which fit in one pack. Loops over rows use a local
// copy of this object, because the compiler cannot prove that stores to rows do not modify it.
template <class T, int NB>
struct RowShape {
  using P = Pack<T>;
  static constexpr int capacity = NB == 0 ? most_packs : NB < 0 ? 1 : NB;
  int64_t width;  // scalars from one row to the next
  int count;
  RowEnd<T> end;

  explicit RowShape(int64_t columns)
      : width(width_of(columns)), count(packs_of(columns)), end(width - (packs_of(columns) - 1) * P::lanes) {}

  static int packs_of(int64_t columns) {
    return NB ? capacity : static_cast<int>((columns + P::lanes - 1) / P::lanes);
  }
  static int64_t width_of(int64_t columns) {
    if constexpr (NB < 0) return -NB;
    constexpr int64_t grain = RowEnd<T>::grain;
    const int64_t whole = (packs_of(columns) - 1) * P::lanes;
    const int64_t last = columns > whole ? (columns - whole + grain - 1) / grain * grain : grain;
    return whole + (last < P::lanes ? last : P::lanes);
  }
  CRFRNN_INLINE int packs() const { return NB ? capacity : count; }
  // Numbers from one row to the next: a constant for narrow rows.
  CRFRNN_INLINE int64_t step() const { return NB < 0 ? -NB : width; }
  CRFRNN_INLINE P load(const T* row, int b) const {
    if constexpr (NB < 0) return P::template load_row<-NB>(row);
    return b + 1 < packs() ? P::load(row + b * P::lanes) : end.load(row + b * P::lanes);
  }
  CRFRNN_INLINE void store(const P& pack, T* row, int b) const {
    if constexpr (NB < 0) return pack.template store_row<-NB>(row);
    if (b + 1 < packs())
      pack.store(row + b * P::lanes);
    else
      end.store(pack, row + b * P::lanes);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
