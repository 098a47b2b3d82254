// SPDX-License-Identifier: MIT
// Which vertices of a lattice are neighbours, and the runs of neighbours inside a slab.
#pragma once

#include <algorithm>
#include <vector>

#include "keys.hpp"
#include "lattice.hpp"
#include "layout.hpp"

namespace crfrnn {

// A step adds a constant to a key, so the neighbours of sorted vertices are sorted too: a merge finds them all.
template <int W>
void find_neighbours(const Lattice& lattice, const std::vector<Key<W>>& keys, const Layout& layout, int32_t* neighbour, int threads) {
  const int64_t vertices = lattice.vertices, corners = lattice.dim + 1;
  parallel_ranges(2 * corners * vertices, 1 << 16, threads, [&](int64_t begin, int64_t end) {
    std::fill(neighbour + begin, neighbour + end, static_cast<int32_t>(vertices));
  });
  constexpr int64_t parts = 8;
  parallel_for(corners * parts, threads, [&](int64_t task, int) {
    const int axis = static_cast<int>(task / parts);
    const int64_t begin = vertices * (task % parts) / parts, end = vertices * (task % parts + 1) / parts;
    if (begin == end) return;
    int32_t* plus = neighbour + 2 * axis * vertices;
    int32_t* minus = plus + vertices;
    const Key<W> step = layout.step<W>(axis);
    int64_t j = std::lower_bound(keys.begin(), keys.end(), keys[static_cast<size_t>(begin)] + step) - keys.begin();
    for (int64_t v = begin; v < end && j < vertices; ++v) {
      const Key<W> wanted = keys[static_cast<size_t>(v)] + step;
      while (j < vertices && keys[static_cast<size_t>(j)] < wanted) ++j;
      if (j < vertices && keys[static_cast<size_t>(j)] == wanted) {
        plus[v] = static_cast<int32_t>(j);
        minus[j] = static_cast<int32_t>(v);
      }
    }
  });
}

// The runs of neighbours of one slab (lattice.hpp), from one end of each to the other.
inline void link_chains(const Lattice& lattice, int64_t axis, int64_t slab, int32_t* list, int32_t& filled) {
  const int32_t absent = static_cast<int32_t>(lattice.vertices);
  const int32_t* plus = lattice.neighbour + 2 * axis * lattice.vertices;
  const int32_t* minus = plus + lattice.vertices;
  const int32_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
  int32_t at = begin;
  for (int32_t v = begin; v < end; ++v) {
    if (minus[v] != absent || plus[v] == absent) continue;
    int32_t u = v;
    for (; plus[u] != absent; u = plus[u]) list[at++] = u - begin;
    list[at++] = ~(u - begin);
  }
  filled = at;
  std::fill(list + at, list + end, 0);
}

}  // namespace crfrnn
