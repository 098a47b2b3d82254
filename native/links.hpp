// SPDX-License-Identifier: MIT
// The links of a lattice whose axes are blurred in groups (lattice.hpp).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <utility>

#include "keys.hpp"
#include "lattice.hpp"
#include "layout.hpp"
#include "list.hpp"
#include "parallel.hpp"

namespace crfrnn {

// Links are found in pieces: each piece is a few slabs of one group.
struct Links {
  Array<int32_t> mask;         // [groups][vertices]
  Array<int32_t> slab_link;    // [groups * slabs + 1]
  List<List<int32_t>> pieces;  // their links, one piece after the other
  List<int64_t> start;         // [pieces + 1] the first link of each
};

// Searches the keys of some vertices plus a step among all keys, by a merge, since both lists ascend. There
// is no branch on which list advances next, and several steps are interleaved to hide the latency of loads.
template <int W>
struct Seeker {
  const Key<W>* keys;
  Key<W> step;
  int32_t* found;  // the result for vertex v, or `vertices` if there is none
  int64_t v, end, j, vertices;

  Seeker(const List<Key<W>>& all, const Key<W>& step_, int64_t begin, int64_t end_, int32_t* found_)
      : keys(all.data()), step(step_), found(found_), v(begin), end(end_),
        j(std::lower_bound(all.begin(), all.end(), all[static_cast<size_t>(begin)] + step_) - all.begin()),
        vertices(static_cast<int64_t>(all.size())) {}
  // a lower bound of the remaining turns
  int64_t left() const { return std::min(end - v, vertices - j); }
  // Written in every turn; the last write, before v advances, is the correct one.
  void turn() {
    const Key<W> wanted = keys[v] + step, here = keys[j];
    const int64_t less = here < wanted, equal = here == wanted;
    found[v] = static_cast<int32_t>(vertices + ((j - vertices) & -equal));
    v += 1 - less;
    j += less | equal;
  }
  void finish() {
    while (left() > 0) turn();
    std::fill(found + v, found + end, static_cast<int32_t>(vertices));
  }
};

template <int W>
class LinkFinder {
 public:
  LinkFinder(const TableShape& shape, const List<Key<W>>& keys, const List<int32_t>& slab_vertex,
             const Layout& layout)
      : shape_(shape), keys_(keys), slab_vertex_(slab_vertex), layout_(layout) {
    // vertices: their neighbours along all offsets stay in the cache
    constexpr int32_t least = block_size(4096, 8);
    cuts_.push_back(0);
    for (int64_t slab = 1; slab <= shape.slabs; ++slab)
      if (slab == shape.slabs || vertex(slab) - vertex(cuts_.back()) >= least) cuts_.push_back(slab);
  }

  Links find(int threads) const {
    const int64_t pieces = static_cast<int64_t>(cuts_.size()) - 1, all = shape_.groups() * pieces;
    Links links{Array<int32_t>(static_cast<size_t>(shape_.groups() * shape_.vertices)),
                Array<int32_t>(static_cast<size_t>(shape_.groups() * shape_.slabs + 1)),
                List<List<int32_t>>(static_cast<size_t>(all)),
                List<int64_t>(static_cast<size_t>(all) + 1, 0)};
    parallel_for(all, threads, [&](int64_t task, int) {
      find_piece(static_cast<int>(task / pieces), task % pieces, links,
                 links.pieces[static_cast<size_t>(task)]);
    });
    for (size_t i = 0; i < links.pieces.size(); ++i)
      links.start[i + 1] = links.start[i] + static_cast<int64_t>(links.pieces[i].size());
    if (links.start.back() > INT32_MAX)
      throw std::invalid_argument(
          "features: more than 2^31 links between lattice vertices; split the batch, tile the picture, or "
          "use "
          "quality \"classic\"");
    for (int64_t task = 0; task < all; ++task)
      for (int64_t slab = cuts_[static_cast<size_t>(task % pieces)];
           slab < cuts_[static_cast<size_t>(task % pieces) + 1]; ++slab)
        links.slab_link[static_cast<size_t>(task / pieces * shape_.slabs + slab)] +=
            static_cast<int32_t>(links.start[static_cast<size_t>(task)]);
    links.slab_link[static_cast<size_t>(shape_.groups() * shape_.slabs)] =
        static_cast<int32_t>(links.start.back());
    return links;
  }

 private:
  const TableShape& shape_;
  const List<Key<W>>& keys_;
  const List<int32_t>& slab_vertex_;
  const Layout& layout_;
  List<int64_t> cuts_;  // where pieces begin, in slabs

  int32_t vertex(int64_t slab) const { return slab_vertex_[static_cast<size_t>(slab)]; }

  Key<W> step(const AxisGroup& group, int offset) const {
    Key<W> sum = Key<W>::zero();
    for (int i = 0; i < group.axes; ++i) {
      const Key<W> one = layout_.template step<W>(group.first + i);
      const int steps = AxisGroup::steps(offset, i);
      if (steps) sum = sum + (steps > 0 ? one : -one);
    }
    return sum;
  }

  // For now, slab_link is relative to the first link of the piece.
  void find_piece(int g, int64_t piece, Links& links, List<int32_t>& list) const {
    const AxisGroup group = shape_.group(g);
    const int64_t first_slab = cuts_[static_cast<size_t>(piece)],
                  last_slab = cuts_[static_cast<size_t>(piece) + 1];
    const int64_t begin = vertex(first_slab), end = vertex(last_slab), count = end - begin;
    const int offsets = group.offsets();
    const int32_t absent = static_cast<int32_t>(shape_.vertices);
    Array<int32_t> found(static_cast<size_t>(offsets * count));
    const auto seeker = [&](int offset) {
      return Seeker<W>(keys_, step(group, offset), begin, end, found.data() + offset * count - begin);
    };
    const auto seek = [&]<size_t... I>(int n, std::index_sequence<I...>) {
      std::array<Seeker<W>, sizeof...(I)> seekers{seeker(n + static_cast<int>(I))...};
      const auto all_left = [&] { return std::min({seekers[I].left()...}); };
      for (int64_t turns = all_left(); turns > 0; turns = all_left()) {
        check_stop();
        for (turns = std::min(turns, unasked); turns > 0; --turns) (seekers[I].turn(), ...);
      }
      (seekers[I].finish(), ...);
    };
    int next = 1;
    for (; next + 4 <= offsets; next += 4) seek(next, std::make_index_sequence<4>());
    for (; next < offsets; next += 2) seek(next, std::make_index_sequence<2>());  // an even number is left
    int32_t* mask = links.mask.data() + g * shape_.vertices;
    std::fill(mask + begin, mask + end, 0);
    for (int n = 1; n < offsets; ++n) {
      const int32_t* of = found.data() + n * count - begin;
      for (int64_t v = begin; v < end; ++v) mask[v] |= static_cast<int32_t>(of[v] != absent) << n;
    }
    int64_t total = 0;
    for (int64_t v = begin; v < end; ++v) total += std::popcount(static_cast<uint32_t>(mask[v]));
    list.resize(static_cast<size_t>(total));
    size_t at = 0;
    for (int64_t slab = first_slab; slab < last_slab; ++slab) {
      links.slab_link[static_cast<size_t>(g * shape_.slabs + slab)] = static_cast<int32_t>(at);
      for (int64_t v = vertex(slab); v < vertex(slab + 1); ++v)
        for (uint32_t left = static_cast<uint32_t>(mask[v]); left; left &= left - 1)
          list[at++] = found[static_cast<size_t>(std::countr_zero(left) * count + v - begin)];
    }
  }
};

}  // namespace crfrnn
