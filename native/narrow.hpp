// SPDX-License-Identifier: MIT
// The slice for narrow rows (row_shape.hpp), of which several points are processed at a time.
#pragma once

#include <type_traits>

#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

// Numbers k of parts g: out[k] has table[g * V + k] in all lanes of part g.
template <int W, int V, class T>
CRFRNN_INLINE void spread_columns(const T* table, Pack<T>* out) {
  using P = Pack<T>;
  if constexpr (requires { P::template spread_columns<W>(table, out, std::integral_constant<int, V>{}); })
    return P::template spread_columns<W>(table, out, std::integral_constant<int, V>{});
  for (int k = 0; k < V; ++k)
    out[k] = P::template spread<W>([&](int g) CRFRNN_INLINE_LAMBDA { return table + g * V + k; });
}

// As Sweep::slice, from rows indexed from vertex 0, but calls sink(p, some, pack), where part g of the pack
// holds the sum of point p + g; `some` parts are valid.
template <int V, class T, int NB, class Sink>
CRFRNN_INLINE void slice_parts(const Sweep<T, NB>& sweep, int64_t begin, int64_t end, const T* rows,
                               const Sink& sink) {
  using P = Pack<T>;
  constexpr int width = -NB, parts = P::lanes / width, most = V ? V : max_dim + 1;
  const Lattice& lattice = sweep.lattice;
  const int corners = V ? V : lattice.dim + 1;
  const T* const weights = sweep.weights;
  const int32_t *const start = lattice.simplex_start, *const corner = lattice.simplex_vertex;
  const int64_t last = start[end];
  int64_t s = begin - 1;
  const auto sums = [&](int64_t p, int some) CRFRNN_INLINE_LAMBDA {
    const T* const weight = weights + p * corners;
    prefetch(weight + far_ahead * corners);
    prefetch(weight + far_ahead * corners + P::lanes);
    const int32_t* vertex[parts];
    P wk[most];
    for (int g = 0; g < parts; ++g) {
      s += g < some && start[s + 1] <= p + g;  // not a branch: it would be unpredictable
      vertex[g] = corner + s * corners;
    }
    if (V && some == parts)
      spread_columns<width, most>(weight, wk);
    else
      for (int k = 0; k < corners; ++k)
        wk[k] = P::template spread<width>([&](int g) { return weight + (g < some ? g * corners : 0) + k; });
    P sum;
    for (int k = 0; k < corners; ++k) {
      const P row = P::template rows<width>(
          [&](int g) CRFRNN_INLINE_LAMBDA { return rows + int64_t{vertex[g][k]} * width; });
      sum = k == 0 ? wk[k] * row : P::fma(wk[k], row, sum);
    }
    sink(p, some, sum);
  };
  int64_t p = start[begin];
  for (; p + parts <= last; p += parts) sums(p, parts);
  if (p < last) sums(p, static_cast<int>(last - p));
}

}  // namespace crfrnn::CRFRNN_ISA
