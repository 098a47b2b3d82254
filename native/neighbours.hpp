// SPDX-License-Identifier: MIT
// Finds the neighbours of the vertices of a lattice, and the runs of neighbours inside a slab.
#pragma once

#include <algorithm>
#include <array>

#include "keys.hpp"
#include "lattice.hpp"
#include "layout.hpp"
#include "list.hpp"
#include "parallel.hpp"

namespace crfrnn {

// A step adds a constant to a key, so the neighbours of sorted vertices are sorted too, and a merge finds all
// of them. Which list advances next is unpredictable, so the merge is branch-free; several stretches are
// interleaved to hide the latency of loads.
template <int W>
struct Merge {
  const Key<W>* keys;
  Key<W> step;
  int32_t vertices, *plus, *minus;  // minus: initially all absent; entries never found stay so

  struct Stretch {
    int64_t v, last_v, j, last_j;
  };
  int64_t lower_bound(int64_t v) const {
    return v < vertices ? std::lower_bound(keys, keys + vertices, keys[v] + step) - keys : vertices;
  }
  Stretch stretch(int64_t begin, int64_t end) const {
    return {begin, end, lower_bound(begin), lower_bound(end)};
  }
  // a lower bound of the remaining turns
  static int64_t left(const Stretch& s) { return std::min(s.last_v - s.v, s.last_j - s.j); }

  // Both are written in every turn; the last write, before v or j advances, is the correct one.
  void turn(Stretch& s) const {
    const Key<W> wanted = keys[s.v] + step, here = keys[s.j];
    const int32_t less = here < wanted, equal = here == wanted;
    const int32_t v = static_cast<int32_t>(s.v), j = static_cast<int32_t>(s.j);
    plus[s.v] = vertices + ((j - vertices) & -equal);
    minus[s.j] = vertices + ((v - vertices) & -equal);
    s.v += 1 - less;
    s.j += less | equal;
  }
  template <size_t N>
  void operator()(std::array<Stretch, N> stretches) const {
    const auto all_left = [&] {
      int64_t least = left(stretches[0]);
      for (const Stretch& s : stretches) least = std::min(least, left(s));
      return least;
    };
    for (int64_t turns = all_left(); turns > 0; turns = all_left())
      for (int64_t i = 0; i < turns; ++i)
        for (Stretch& s : stretches) turn(s);
    for (Stretch& s : stretches) {
      while (left(s) > 0) turn(s);
      std::fill(plus + s.v, plus + s.last_v, vertices);
    }
  }
};

template <int W>
void find_neighbours(const Lattice& lattice, const List<Key<W>>& keys, const Layout& layout,
                     int32_t* neighbour, int threads) {
  const int64_t vertices = lattice.vertices, corners = lattice.dim + 1;
  constexpr int64_t strands = 4, tasks = 8;  // per axis
  const auto first = [=](int64_t part) { return vertices * part / (strands * tasks); };
  parallel_for(corners, threads, [&](int64_t axis, int) {
    int32_t* minus = neighbour + (2 * axis + 1) * vertices;
    std::fill(minus, minus + vertices, static_cast<int32_t>(vertices));
  });
  parallel_for(corners * tasks, threads, [&](int64_t task, int) {
    const int64_t axis = task / tasks, part = task % tasks * strands;
    int32_t* plus = neighbour + 2 * axis * vertices;
    const Merge<W> merge{keys.data(), layout.step<W>(static_cast<int>(axis)), static_cast<int32_t>(vertices),
                         plus, plus + vertices};
    std::array<typename Merge<W>::Stretch, strands> stretches;
    for (int64_t i = 0; i < strands; ++i)
      stretches[static_cast<size_t>(i)] = merge.stretch(first(part + i), first(part + i + 1));
    merge(stretches);
  });
}

// Lists the runs of neighbours of one slab (lattice.hpp) along one axis, each from one end to the other.
// Branch-free as well: when a run ends, the next one begins in the same turn.
struct Chain {
  const int32_t *plus, *minus;
  int32_t begin, end, absent;  // the vertices of the slab; no neighbour
  int32_t *list, *filled;
  List<int32_t> heads;
  int32_t u, at, linked = 0;  // u: the vertex listed next, at position `at`
  size_t next = 1;

  Chain(const Lattice& lattice, int64_t axis, int64_t slab, int32_t* list_, int32_t* filled_)
      : plus(lattice.neighbour + 2 * axis * lattice.vertices), minus(plus + lattice.vertices),
        begin(lattice.slab_vertex[slab]), end(lattice.slab_vertex[slab + 1]),
        absent(static_cast<int32_t>(lattice.vertices)), list(list_), filled(filled_),
        heads(static_cast<size_t>(end - begin) + 2) {  // padding: one more is read after the last
    size_t runs = 0;
    for (int32_t v = begin; v < end; ++v) {
      const bool any = plus[v] != absent;
      heads[runs] = v;
      runs += any & (minus[v] == absent);
      linked += any | (minus[v] != absent);
    }
    u = heads[0];
    at = begin;
  }
  int32_t left() const { return begin + linked - at; }
  void turn() {
    const int32_t after = plus[u], ended = after == absent;
    list[at++] = (u - begin) ^ -ended;
    u = after + ((heads[next] - after) & -ended);
    next += static_cast<size_t>(ended);
  }
  void finish() {
    while (left() > 0) turn();
    *filled = at;
    std::fill(list + at, list + end, 0);
  }
};

// Several chains at a time, because in each, every turn waits for the load of the one before.
template <size_t N>
void link_chains(std::array<Chain, N> chains) {
  int32_t turns = chains[0].left();
  for (const Chain& chain : chains) turns = std::min(turns, chain.left());
  for (; turns > 0; --turns)
    for (Chain& chain : chains) chain.turn();
  for (Chain& chain : chains) chain.finish();
}

// Lists all runs of neighbours inside slabs: chain and chain_end of the table.
inline void list_chains(const Lattice& lattice, int32_t* chain, int32_t* chain_end, int threads) {
  constexpr int64_t together = 4;
  const int64_t inner = lattice.dim - 1, groups = (inner + together - 1) / together;
  parallel_for(groups * lattice.slabs, threads, [&](int64_t task, int) {
    const int64_t slab = task / groups;
    const auto one = [&](int64_t which) {
      return Chain(lattice, which < lattice.lead ? which : which + 2, slab, chain + which * lattice.vertices,
                   chain_end + which * lattice.slabs + slab);
    };
    int64_t which = task % groups * together;
    if (inner - which >= together)
      return link_chains<4>({one(which), one(which + 1), one(which + 2), one(which + 3)});
    for (; which < inner; ++which) link_chains<1>({one(which)});
  });
}

}  // namespace crfrnn
