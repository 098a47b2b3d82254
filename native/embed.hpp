// SPDX-License-Identifier: MIT
// Points into the lattice: elevation, the enclosing simplex, barycentric weights (Adams, Baek & Davis 2010, section 3).
#pragma once

#include <cstdint>

namespace crfrnn {

constexpr int max_dim = 8;

template <class T>
struct EmbedTable {
  // For points [begin, end): coordinates f of the remainder-0 vertex [dim], rank [dim + 1] and weights [dim + 1].
  // Returns 0, 1 (a feature is not finite) or 2 (a feature is too large for the precision of T).
  int (*embed)(const T* features, int64_t begin, int64_t end, int dim, double scale, int64_t* coordinates,
               uint8_t* rank, T* weights);
  // The derivative: gradient of the weights [dim + 1] and the rank of the simplex -> gradient of the features [dim].
  void (*feature_gradient)(const T* grad_weights, const uint8_t* rank, int dim, double scale, T* grad_features);
};

}  // namespace crfrnn
