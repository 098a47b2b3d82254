// SPDX-License-Identifier: MIT
// Maps points to the lattice: elevation, enclosing simplex, barycentric weights (Adams, Baek & Davis 2010,
// section 3).
#pragma once

#include <cstdint>
#include <type_traits>

namespace crfrnn {

constexpr int max_dim = 32;

// Points are embedded in blocks that fill a register. Inside a block, corresponding numbers of all points are
// contiguous: number j of the n numbers of point p is at [p / embed_block][j][p % embed_block]. Code that
// uses them therefore needs no shuffles.
template <class T>
constexpr int embed_block = 64 / sizeof(T);
template <class T>
using Coordinate = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
struct Embedded {
  Coordinate<T>* coordinates;  // f of the remainder-0 vertex, dim per point, in blocks
  uint8_t* rank;               // dim + 1 per point, in blocks
  T* weights;                  // [points][dim + 1], barycentric
};

template <class T>
struct EmbedTable {
  // Embeds points [begin, end), where `begin` is the first point of a block. least and most [dim] receive the
  // range of their coordinates. Returns 0, 1 (a feature is not finite) or 2 (a feature is too large for the
  // precision of T).
  int (*embed)(const T* features, int64_t begin, int64_t end, int dim, double scale, const Embedded<T>& out,
               T* least, T* most);
  // The derivative: maps the gradient of the weights [dim + 1] and the rank of the simplex to the gradient of
  // the features [dim].
  void (*feature_gradient)(const T* grad_weights, const uint8_t* rank, int dim, double scale,
                           T* grad_features);
};

}  // namespace crfrnn
