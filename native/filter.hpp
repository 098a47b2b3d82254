// SPDX-License-Identifier: MIT
// splat · blur · slice over plain arrays, and the derivative with respect to the barycentric weights.
#pragma once

#include <cstdint>

#include "lattice.hpp"

namespace crfrnn {

template <class T>
struct FilterTable {
  // out = slice(blur(splat(values))) / (1 + 2^-d); values and out are [total][channels]. reverse: blur axes d
  // .. 0, which gives the adjoint.
  void (*filter)(const Lattice& lattice, const T* weights, const T* values, int64_t channels, bool reverse,
                 T* out, int threads);
  // Computes d<g, K x> / d weights, [points][dim + 1] in sorted order.
  void (*weight_gradient)(const Lattice& lattice, const T* weights, const T* x, const T* g, int64_t channels,
                          T* grad_weights, int threads);
};

// The parts of a table that these read (Lattice::verify); a filter of one channel has a separate walk.
constexpr unsigned sweep_reads = Lattice::corners | Lattice::runs;
constexpr unsigned filter_reads(int64_t channels) {
  return channels == 1 ? unsigned{Lattice::corners | Lattice::neighbours} : sweep_reads;
}

}  // namespace crfrnn
