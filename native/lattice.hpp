// SPDX-License-Identifier: MIT
// The permutohedral lattice of a set of points: the simplex that contains each point, the vertices of each
// simplex, and the neighbours of each vertex. A vertex is stored as d integer coordinates f_i = (k_i -
// k_{i+1}) / (d + 1), where k are the usual d + 1 coordinates that sum to zero. In these coordinates the
// neighbour along axis j is one step away: f_j - 1 and f_{j-1} + 1.
//
// Vertices are sorted by (picture, f_lead, the other f). A run with equal (picture, f_lead) is a *slab*.
// Along all axes except two (lead and lead + 1), neighbours are in the same slab; along those two, they are
// in the adjacent slabs. Every simplex spans two consecutive slabs. The whole filter can therefore run slab
// by slab in the cache.
//
// Axes are blurred one at a time, or in groups of up to three consecutive axes (groups.hpp). With groups,
// the vertices at the offsets of a group are the *links* of a vertex, stored in the order of the offsets; at
// most offsets there is no vertex. An offset may lead two slabs away, so an empty slab is inserted where a
// single f_lead has no vertices.
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
  int32_t points, simplices, vertices, slabs;  // points: valid ones only
  int32_t total;                               // all points, masked ones included
  int32_t together, links, reserved;           // together: axes per group, 1 = one at a time
  double scale, unused;                        // scale: see BuildOptions
};
static_assert(sizeof(Header) == 64);

// The contents of the header, and the sizes of the parts that follow it.
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

  // Throws std::invalid_argument if `table`, of `size` words, does not begin with a valid header.
  static TableShape of(const int32_t* table, int64_t size);
  Header header() const;
  // Size in words of the header and of each array of `Lattice`, in order.
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
  // The last three arrays replace neighbours and chains where axes are blurred in groups.
  const int32_t* link_mask = nullptr;  // [groups][vertices] bit n: there is a vertex at offset n
  const int32_t* link = nullptr;       // [links] by group, then vertex, then offset
  const int32_t* slab_link = nullptr;  // [groups * slabs + 1] first link of a slab

  // For an axis whose neighbours lie in the same slab: the vertices of the slab that have neighbours, run
  // after run, as offsets from the first vertex of the slab. The last entry of each run is stored as its
  // complement. The entries start at the front of the slab's range.
  struct Chains {
    const int32_t *begin, *end;
  };
  Chains chains(int axis, int64_t slab) const {
    const int64_t which = axis < lead ? axis : axis - 2;
    const int32_t* list = chain + which * vertices;
    return {list + slab_vertex[slab], list + chain_end[which * slabs + slab]};
  }

  // Throws std::invalid_argument if the length of the table differs from the one in its header.
  static Lattice decode(const int32_t* table, int64_t size);
  // What a walk reads in addition to points and simplices. runs: includes the neighbours in other slabs.
  enum Reads : unsigned { corners = 1, neighbours = 2, runs = 4, ranks = 8, everything = 15 };
  // Throws std::invalid_argument if one of these indices points outside the table, or outside a buffer that a
  // walk sizes from it (verify.cpp).
  void verify(int threads, unsigned reads) const;

 private:
  void verify_links(int threads) const;
};

[[noreturn]] void refuse_table(const char* why);  // throws std::invalid_argument for a damaged structure

enum class BuildStatus { ok, not_finite, too_large };

template <class T>
struct BuildResult {
  BuildStatus status = BuildStatus::ok;
  Array<int32_t> table;
  Array<T> weights;  // [points][dim + 1], barycentric, in sorted order
};

struct BuildOptions {
  double scale = 1.0;    // factor of the features
  int rings = 0;         // how many rings of missing vertices are added
  int ring_support = 1;  // a missing vertex is added when it has at least this many neighbours
  int together = 1;      // axes blurred at once, 1 or 3; always fewer than d + 1
  int threads = 1;
};

// features [batch][points_per_item][dim]; mask [batch][points_per_item] or null (nonzero = valid).
template <class T>
BuildResult<T> build(const T* features, const uint8_t* mask, int64_t batch, int64_t points_per_item, int dim,
                     const BuildOptions& options);

}  // namespace crfrnn
