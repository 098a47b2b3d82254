// SPDX-License-Identifier: MIT
// The permutohedral lattice of a set of points: which simplex holds each point, which vertices a simplex has,
// which vertices are neighbours. Vertices carry d integer coordinates f_i = (k_i - k_{i+1}) / (d + 1), k
// being the usual d + 1 coordinates that sum to zero: in them the neighbour along axis j is one step, f_j - 1
// and f_{j-1} + 1.
//
// Vertices are sorted by (picture, f_lead, the other f): a run of equal (picture, f_lead) is a *slab*. Every
// axis but two (lead and lead + 1) has its neighbours in the same slab, those two in the next ones, and every
// simplex lies in two consecutive slabs. That is why a whole filter can work slab by slab in the cache.
//
// Axes are blurred one after the other, or, three of them at once, in groups of consecutive ones
// (groups.hpp). Then the vertices that lie at an offset of a group are a vertex' *links*, in the order of the
// offsets; most of the offsets lead to none. An offset may lead two slabs away: where a single f_lead has no
// vertices, an empty slab stands for it.
#pragma once

#include <array>
#include <cstdint>

#include "array.hpp"
#include "groups.hpp"

namespace crfrnn {

// The first words of a table.
struct Header {
  static constexpr int32_t magic_word = 0x43524631;
  int32_t magic, dim, lead, flags;
  int32_t points, simplices, vertices, slabs;  // points: the valid ones
  int32_t total;                               // all points, masked ones included
  int32_t together, links, reserved;           // together: axes of a group, 1 for one after the other
  double scale, unused;                        // scale: see BuildOptions
};
static_assert(sizeof(Header) == 64);

// What the header says, and how long the parts are that follow it.
struct TableShape {
  static constexpr int64_t header_words = sizeof(Header) / sizeof(int32_t);
  int dim = 0, lead = 0;
  int64_t points = 0, simplices = 0, vertices = 0, slabs = 0, total = 0;
  int together = 1;
  int64_t links = 0;
  double scale = 1;

  int groups() const { return (dim + together) / together; }
  AxisGroup group(int g) const {
    const int first = g * together, rest = dim + 1 - first;
    return {first, rest < together ? rest : together};
  }

  // Throws std::invalid_argument if `table`, of `size` words, does not begin with a sound header.
  static TableShape of(const int32_t* table, int64_t size);
  Header header() const;
  // Words of the header and of the arrays of `Lattice`, in their order.
  std::array<int64_t, 13> parts() const;
  int64_t words() const;
};

// Pointers into one int32 table, laid out in this order.
struct Lattice : TableShape {
  const int32_t* order = nullptr;           // [points] sorted position -> point
  const int32_t* simplex_start = nullptr;   // [simplices + 1] first sorted position of a simplex
  const int32_t* simplex_vertex = nullptr;  // [simplices][dim + 1]
  const uint8_t* simplex_rank = nullptr;    // [simplices][dim + 1] rank of each coordinate's remainder
  const int32_t* neighbour = nullptr;       // [dim + 1][2][vertices]; `vertices` where there is none
  const int32_t* slab_vertex = nullptr;     // [slabs + 1] first vertex of a slab
  const int32_t* slab_simplex = nullptr;    // [slabs + 1] first simplex whose lower slab it is
  const int32_t* chain = nullptr;           // [dim - 1][vertices] runs of neighbours, see below
  const int32_t* chain_end = nullptr;       // [dim - 1][slabs]
  // The last three in place of neighbours and chains where axes are blurred in groups.
  const int32_t* link_mask = nullptr;  // [groups][vertices] bit n: there is a vertex at offset n
  const int32_t* link = nullptr;       // [links] by group, then vertex, then offset
  const int32_t* slab_link = nullptr;  // [groups * slabs + 1] first link of a slab

  // The vertices of a slab that have neighbours along an axis whose neighbours lie in the slab: one after the
  // other, counted from the slab's first vertex, the last of each run as its complement. They fill the slab's
  // own places from the front.
  struct Chains {
    const int32_t *begin, *end;
  };
  Chains chains(int axis, int64_t slab) const {
    const int64_t which = axis < lead ? axis : axis - 2;
    const int32_t* list = chain + which * vertices;
    return {list + slab_vertex[slab], list + chain_end[which * slabs + slab]};
  }

  // Throws std::invalid_argument if the table is not as long as its header says.
  static Lattice decode(const int32_t* table, int64_t size);
  // What a walk reads beside points and simplices; runs: also the neighbours that lie in other slabs.
  enum Reads : unsigned { corners = 1, neighbours = 2, runs = 4, ranks = 8, everything = 15 };
  // Throws std::invalid_argument if an index among them leads out of the table, or out of what a walk
  // allocates by it (verify.cpp).
  void verify(int threads, unsigned reads) const;

 private:
  void verify_links(int threads) const;
};

[[noreturn]] void refuse_table(const char* why);  // throws std::invalid_argument: a damaged structure

enum class BuildStatus { ok, not_finite, too_large };

template <class T>
struct BuildResult {
  BuildStatus status = BuildStatus::ok;
  Array<int32_t> table;
  Array<T> weights;  // [points][dim + 1], barycentric, in sorted order
};

struct BuildOptions {
  double scale = 1.0;    // multiplies the features
  int rings = 0;         // how many rings of missing vertices are added
  int ring_support = 1;  // a missing vertex is added when it has at least this many neighbours
  int together = 1;      // how many axes are blurred at once, 1 or 3; never all of them
  int threads = 1;
};

// features [batch][points_per_item][dim]; mask [batch][points_per_item] or null (nonzero = valid).
template <class T>
BuildResult<T> build(const T* features, const uint8_t* mask, int64_t batch, int64_t points_per_item, int dim,
                     const BuildOptions& options);

}  // namespace crfrnn
