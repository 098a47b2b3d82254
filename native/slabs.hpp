// SPDX-License-Identifier: MIT
// How a walk over the slabs of a lattice (lattice.hpp) is ordered and shared out.
#pragma once

#include "embed.hpp"
#include "lattice.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

// The order of the blur: `before` the crossing pair, the pair, and `after` it.
struct Axes {
  int before[max_dim + 1], after[max_dim + 1], befores = 0, afters = 0, first, second;

  Axes(const Lattice& lattice, bool reverse) {
    const int d = lattice.dim, lead = lattice.lead;
    first = reverse ? lead + 1 : lead;
    second = reverse ? lead : lead + 1;
    for (int i = 0; i <= d; ++i) {
      const int axis = reverse ? d - i : i;
      if (axis == lead || axis == lead + 1) continue;
      const bool early = reverse ? axis > lead + 1 : axis < lead;
      if (early)
        before[befores++] = axis;
      else
        after[afters++] = axis;
    }
  }
};

// What slicing multiplies by, the stencil of the blur being v + ½(n₁ + n₂).
template <class T>
CRFRNN_INLINE T slice_factor(int dim) {
  return static_cast<T>(1.0 / (1.0 + 1.0 / static_cast<double>(int64_t{1} << dim)));
}

// Sums over pixels are taken in this many parts and then part by part: never by the number of threads.
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

// First slab of chunk i of n: slabs are shared out by the vertices and points they hold.
inline int64_t chunk_slab(const Lattice& lattice, int64_t i, int64_t n) {
  const auto before = [&](int64_t slab) {
    return int64_t{lattice.slab_vertex[slab]} + lattice.simplex_start[lattice.slab_simplex[slab]];
  };
  const int64_t target = (lattice.vertices + lattice.points) * i / n;
  int64_t low = 0, high = lattice.slabs;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (before(middle) < target)
      low = middle + 1;
    else
      high = middle;
  }
  return i == n ? lattice.slabs : low;
}

}  // namespace crfrnn::CRFRNN_ISA
