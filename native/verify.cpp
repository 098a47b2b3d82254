// SPDX-License-Identifier: MIT
// Is a table one that can be walked? It may come from a file, a damaged one, or be another lattice's. Indices
// that all lie in range are all that is asked: a table that build() did not make may mean nothing, but
// nothing outside it is read or written.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "lattice.hpp"
#include "list.hpp"
#include "parallel.hpp"

namespace crfrnn {
namespace {

void require(bool holds, const char* part) {
  if (!holds)
    throw std::invalid_argument(std::string("structure: damaged, ") + part +
                                "; pass the structure that Lattice.build returned");
}

// low <= x < high for all n numbers; `absent`: this number is allowed, too. No branch, so that many are
// looked at together.
bool within(const int32_t* numbers, int64_t n, int64_t low, int64_t high) {
  const uint32_t first = static_cast<uint32_t>(low), count = static_cast<uint32_t>(high - low);
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i)
    bad |= static_cast<uint32_t>(static_cast<uint32_t>(numbers[i]) - first >= count);
  return bad == 0;
}
bool within(const int32_t* numbers, int64_t n, int64_t low, int64_t high, int64_t absent) {
  const uint32_t first = static_cast<uint32_t>(low), count = static_cast<uint32_t>(high - low),
                 none = static_cast<uint32_t>(absent);
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t x = static_cast<uint32_t>(numbers[i]);
    bad |= static_cast<uint32_t>(x - first >= count) & static_cast<uint32_t>(x != none);
  }
  return bad == 0;
}

// Places from 0 to `last`, each at least `step` behind the one before.
bool ascends(const int32_t* places, int64_t n, int64_t last, int32_t step) {
  if (places[0] != 0 || places[n] != last) return false;
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) bad |= static_cast<uint32_t>(int64_t{places[i]} + step > places[i + 1]);
  return bad == 0;
}

bool all_different(const int32_t* numbers, int64_t n, int64_t total) {
  List<uint64_t> seen(static_cast<size_t>(total / 64 + 1), 0);
  uint64_t twice = 0;
  each_in_turn(0, n, [&](int64_t i) {
    uint64_t& word = seen[static_cast<size_t>(numbers[i]) / 64];
    const uint64_t bit = uint64_t{1} << (numbers[i] % 64);
    twice |= word & bit;
    word |= bit;
  });
  return twice == 0;
}

}  // namespace

void Lattice::verify(int threads) const {
  const int64_t corners = dim + 1;
  require(ascends(slab_vertex, slabs, vertices, 1) && ascends(slab_simplex, slabs, simplices, 0),
          "its slabs do not hold its vertices and simplices");
  require(ascends(simplex_start, simplices, points, 1), "its simplices do not hold its points");
  constexpr int64_t block = 8192;
  parallel_ranges(points, block, threads, [&](int64_t begin, int64_t end) {
    require(within(order + begin, end - begin, 0, total), "it names points that are not there");
  });
  require(all_different(order, points, total), "it names a point twice");
  parallel_ranges(simplices * corners, block, threads, [&](int64_t begin, int64_t end) {
    uint8_t most = 0;
    for (int64_t i = begin; i < end; ++i) most = std::max(most, simplex_rank[i]);
    require(most < corners, "a rank is too large");
  });
  parallel_ranges(2 * corners * vertices, block, threads, [&](int64_t begin, int64_t end) {
    require(within(neighbour + begin, end - begin, 0, vertices + 1), "a neighbour is no vertex");
  });
  const auto slab_begin = [&](int64_t slab) {
    return int64_t{slab_vertex[std::clamp<int64_t>(slab, 0, slabs)]};
  };
  parallel_for(slabs, threads, [&](int64_t slab, int) {
    const int64_t begin = slab_begin(slab), end = slab_begin(slab + 1), first = slab_simplex[slab],
                  last = slab_simplex[slab + 1];
    require(within(simplex_vertex + first * corners, (last - first) * corners, begin, slab_begin(slab + 2)),
            "a simplex has corners outside its slabs");
    // The two axes that cross slabs: axis `lead` goes one slab down.
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t there = i == 0 || i == 3 ? slab - 1 : slab + 1;
      const int32_t* way = neighbour + (2 * lead + i) * vertices + begin;
      require(within(way, end - begin, slab_begin(there), slab_begin(there + 1), vertices),
              "a neighbour lies in another slab");
    }
    for (int64_t which = 0; which + 2 < corners; ++which) {
      const int64_t filled = chain_end[which * slabs + slab];
      require(filled >= begin && filled <= end, "a run of neighbours is too long");
      const int32_t size = static_cast<int32_t>(end - begin);
      require(within(chain + which * vertices + begin, filled - begin, -size, size),
              "a run of neighbours leaves its slab");
    }
  });
}

}  // namespace crfrnn
