// SPDX-License-Identifier: MIT
// Checks that a table can be walked safely. It may come from a damaged file, or belong to another lattice.
// Only the ranges of all indices are checked: a table not made by build() may be meaningless, but no access
// goes outside its arrays. That the points are all distinct is checked by their sum, which damage changes.
// Where rows are located by them, every point is checked (Order in rows.hpp).
#include <algorithm>
#include <atomic>
#include <bit>
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

// Checks that every link leads into the slab given by its offset, and that the number of links equals the
// number of bits in the masks.
void Lattice::verify_links(int threads) const {
  parallel_for(groups() * slabs, threads, [&](int64_t task, int) {
    const AxisGroup axes = group(static_cast<int>(task / slabs));
    const int64_t slab = task % slabs, offsets = axes.offsets();
    uint32_t low[AxisGroup::most_offsets], count[AxisGroup::most_offsets];
    for (int n = 0; n < offsets; ++n) {
      const int64_t there = slab + axes.slabs_up(n, lead);
      const bool any = there >= 0 && there < slabs;
      low[n] = any ? static_cast<uint32_t>(slab_vertex[there]) : 0;
      count[n] = any ? static_cast<uint32_t>(slab_vertex[there + 1]) - low[n] : 0;
    }
    const int32_t* mask = link_mask + task / slabs * vertices;
    const uint32_t unknown = ~((1u << offsets) - 2);  // bit 0 is the vertex itself
    int64_t bits = 0;
    uint32_t bad = 0;
    for (int64_t v = slab_vertex[slab]; v < slab_vertex[slab + 1]; ++v) {
      bits += std::popcount(static_cast<uint32_t>(mask[v]));
      bad |= static_cast<uint32_t>(mask[v]) & unknown;
    }
    if (bad || bits != slab_link[task + 1] - slab_link[task])
      refuse_table("its vertices do not hold its links");
    const int32_t* at = link + slab_link[task];
    for (int64_t v = slab_vertex[slab]; v < slab_vertex[slab + 1]; ++v)
      for (uint32_t left = static_cast<uint32_t>(mask[v]); left; left &= left - 1) {
        const int n = std::countr_zero(left);
        bad |= static_cast<uint32_t>(*at++) - low[n] >= count[n];
      }
    if (bad) refuse_table("a link leads into another slab");
  });
}

void Lattice::verify(int threads, unsigned reads) const {
  const auto require = [](bool holds, const char* why) {
    if (!holds) refuse_table(why);
  };
  const CheckTable& check = check_functions();
  const int64_t count = dim + 1;  // corners of a simplex
  require(check.ascends(slab_vertex, slabs, vertices, together == 1) &&
              check.ascends(slab_simplex, slabs, simplices, 0),
          "its slabs do not hold its vertices and simplices");
  require(check.ascends(simplex_start, simplices, points, 1), "its simplices do not hold its points");
  constexpr int64_t block = block_size(8192, 16);
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
  if (together > 1)
    require(check.ascends(slab_link, groups() * slabs, links, 0), "its slabs do not hold its links");
  if (together == 1 && reads & neighbours)
    parallel_ranges(2 * count * vertices, block, threads, [&](int64_t begin, int64_t end) {
      require(check.within(neighbour + begin, end - begin, 0, vertices, vertices),
              "a neighbour is no vertex");
    });
  if (together > 1 && reads & (neighbours | runs)) verify_links(threads);
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
    if (together > 1 || !(reads & runs)) return;
    // The two axes that cross slabs: a step along axis `lead` goes one slab down.
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
