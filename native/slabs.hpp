// SPDX-License-Identifier: MIT
// The order of a walk over the slabs of a lattice (lattice.hpp), and its division into chunks.
#pragma once

#include "embed.hpp"
#include "lattice.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

// The order of the blur: the axes `before` the pair that crosses slabs, the pair, and the axes `after` it. If
// axes are blurred in groups, the entries are groups. Both axes that cross slabs may then be in one group,
// whose offsets reach two slabs away; the other group of the pair is the one after it or, at the end, the one
// before it.
struct Axes {
  int before[max_dim + 1], after[max_dim + 1], befores = 0, afters = 0, first, second;
  int reach_first, reach_second;  // in slabs

  Axes(const Lattice& lattice, bool reverse) {
    const int count = lattice.groups();
    const int down = lattice.lead / lattice.together, up = (lattice.lead + 1) / lattice.together;
    const int low = down < up || up + 1 < count ? down : down - 1, high = low + 1;
    const auto reach = [&](int which) { return (which == down) + (which == up); };
    first = reverse ? high : low;
    second = reverse ? low : high;
    reach_first = reach(first);
    reach_second = reach(second);
    for (int i = 0; i < count; ++i) {
      const int axis = reverse ? count - 1 - i : i;
      if (axis == low || axis == high) continue;
      const bool early = reverse ? axis > high : axis < low;
      if (early)
        before[befores++] = axis;
      else
        after[afters++] = axis;
    }
  }

  // How many slabs the first blur of the pair runs ahead of the slab being finished, so that the rows of a
  // slab can be overwritten once the next slab is finished.
  int ahead() const { return reach_first > reach_second ? reach_first : reach_second; }
  // How many slabs above and below the slab being finished are read.
  int above() const { return ahead() + reach_first; }
  int below() const { return reach_first + reach_second; }
};

// The factor applied by slicing, for a blur with the stencil v + ½(n₁ + n₂).
template <class T>
CRFRNN_INLINE T slice_factor(int dim) {
  return static_cast<T>(1.0 / (1.0 + 1.0 / static_cast<double>(int64_t{1} << dim)));
}

// Sums over pixels are computed in this fixed number of parts, then added part by part, so that they do not
// depend on the number of threads.
constexpr int64_t fixed_parts = 64;

inline int64_t largest_slab(const Lattice& lattice) {
  int64_t most = 1;
  for (int64_t s = 0; s < lattice.slabs; ++s) {
    const int64_t n = lattice.slab_vertex[s + 1] - lattice.slab_vertex[s];
    if (n > most) most = n;
  }
  return most;
}

inline int64_t sweep_chunks(const Lattice& lattice, int threads) {
  if (threads <= 1) return 1;
  const int64_t most = 2 * static_cast<int64_t>(threads);
  return lattice.slabs < most ? (lattice.slabs < 1 ? 1 : lattice.slabs) : most;
}

// First slab of chunk i of n. A point, a simplex and a vertex take about the same time, so slabs are divided
// by their sum; of the two slabs around a border, the one that is closer.
inline int64_t chunk_slab(const Lattice& lattice, int64_t i, int64_t n) {
  const auto before = [&](int64_t slab) {
    const int64_t simplex = lattice.slab_simplex[slab];
    return lattice.slab_vertex[slab] + simplex + lattice.simplex_start[simplex];
  };
  const int64_t target = before(lattice.slabs) * i / n;
  int64_t low = 0, high = lattice.slabs;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (before(middle) < target)
      low = middle + 1;
    else
      high = middle;
  }
  if (i == n) return lattice.slabs;
  return low > 0 && target - before(low - 1) < before(low) - target ? low - 1 : low;
}

}  // namespace crfrnn::CRFRNN_ISA
