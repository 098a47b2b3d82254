// SPDX-License-Identifier: MIT
// Is a table one that can be walked? It may come from a file, a damaged one, or be another lattice's. Indices
// that all lie in range are all that is asked: a table that build() did not make may mean nothing, but
// nothing outside it is read or written. Whether the points are all different, too, is seen from their sum,
// which damage changes; where rows are found by them it is checked one by one (Order in rows.hpp).
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "dispatch.hpp"
#include "lattice.hpp"
#include "parallel.hpp"

namespace crfrnn {

void refuse_table(const char* why) {
  throw std::invalid_argument(std::string("structure: damaged, ") + why +
                              "; pass the structure that Lattice.build returned");
}

void Lattice::verify(int threads, unsigned reads) const {
  const auto require = [](bool holds, const char* why) {
    if (!holds) refuse_table(why);
  };
  const CheckTable& check = check_functions();
  const int64_t count = dim + 1;  // corners of a simplex
  require(check.ascends(slab_vertex, slabs, vertices, 1) && check.ascends(slab_simplex, slabs, simplices, 0),
          "its slabs do not hold its vertices and simplices");
  require(check.ascends(simplex_start, simplices, points, 1), "its simplices do not hold its points");
  constexpr int64_t block = 8192;
  std::atomic<uint64_t> sum{0};
  parallel_ranges(points, block, threads, [&](int64_t begin, int64_t end) {
    uint64_t own = 0;
    require(check.indices(order + begin, end - begin, total, own), "it names points that are not there");
    sum += own;
  });
  const uint64_t all = static_cast<uint64_t>(total);
  require(points < total || sum == (all ? all * (all - 1) / 2 : 0), "it names a point twice");
  if (reads & ranks)
    parallel_ranges(simplices * count, block, threads, [&](int64_t begin, int64_t end) {
      require(check.below(simplex_rank + begin, end - begin, static_cast<uint8_t>(count)),
              "a rank is too large");
    });
  if (reads & neighbours)
    parallel_ranges(2 * count * vertices, block, threads, [&](int64_t begin, int64_t end) {
      require(check.within(neighbour + begin, end - begin, 0, vertices, vertices),
              "a neighbour is no vertex");
    });
  if (!(reads & (corners | runs))) return;
  const auto slab_begin = [&](int64_t slab) {
    return int64_t{slab_vertex[std::clamp<int64_t>(slab, 0, slabs)]};
  };
  parallel_for(slabs, threads, [&](int64_t slab, int) {
    const int64_t begin = slab_begin(slab), end = slab_begin(slab + 1), first = slab_simplex[slab],
                  last = slab_simplex[slab + 1];
    require(check.within(simplex_vertex + first * count, (last - first) * count, begin, slab_begin(slab + 2),
                         begin),
            "a simplex has corners outside its slabs");
    if (!(reads & runs)) return;
    // The two axes that cross slabs: axis `lead` goes one slab down.
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t there = i == 0 || i == 3 ? slab - 1 : slab + 1;
      const int32_t* way = neighbour + (2 * lead + i) * vertices + begin;
      require(check.within(way, end - begin, slab_begin(there), slab_begin(there + 1), vertices),
              "a neighbour lies in another slab");
    }
    for (int64_t which = 0; which + 2 < count; ++which) {
      const int64_t filled = chain_end[which * slabs + slab];
      require(filled >= begin && filled <= end, "a run of neighbours is too long");
      const int64_t size = end - begin;
      require(check.within(chain + which * vertices + begin, filled - begin, -size, size, 0),
              "a run of neighbours leaves its slab");
    }
  });
}

}  // namespace crfrnn
