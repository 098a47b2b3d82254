// SPDX-License-Identifier: MIT
// The slice for narrow rows (row_shape.hpp), of which several points are processed at a time.
#pragma once

#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

// As Sweep::slice, but calls sink(p, some, pack), where part g of the pack holds the sum of point p + g; `some`
// parts are valid.
template <int V, class T, int NB, class Sink>
CRFRNN_INLINE void slice_parts(const Sweep<T, NB>& sweep, int64_t begin, int64_t end, const T* own,
                               const T* next, int64_t border, const Sink& sink) {
  using P = Pack<T>;
  constexpr int width = -NB, parts = P::lanes / width;
  const Lattice& lattice = sweep.lattice;
  const int corners = V ? V : lattice.dim + 1;
  const T* const rows[2] = {own, next};  // a table instead of an unpredictable branch
  const T* const weights = sweep.weights;
  const int32_t *const start = lattice.simplex_start, *const corner = lattice.simplex_vertex;
  const int64_t last = start[end];
  int64_t s = begin - 1;
  const auto sums = [&](int64_t p, int some) CRFRNN_INLINE_LAMBDA {
    const T* const later = weights + (p + far_ahead) * corners;
    prefetch(later);
    prefetch(later + P::lanes);
    const int32_t* vertex[parts];
    const T* weight[parts];
    for (int g = 0; g < parts; ++g) {
      const int64_t at = g < some ? p + g : last - 1;  // parts beyond the last point repeat it
      s += start[s + 1] <= at;                         // again not a branch
      vertex[g] = corner + s * corners;
      weight[g] = weights + at * corners;
    }
    P sum;
    for (int k = 0; k < corners; ++k) {
      const P row = P::template rows<width>([&](int g) CRFRNN_INLINE_LAMBDA {
        const int64_t v = vertex[g][k];
        return rows[v >= border] + v * width;
      });
      const P wk = P::template spread<width>([&](int g) CRFRNN_INLINE_LAMBDA { return weight[g] + k; });
      sum = k == 0 ? wk * row : P::fma(wk, row, sum);
    }
    sink(p, some, sum);
  };
  int64_t p = start[begin];
  for (; p + parts <= last; p += parts) sums(p, parts);
  if (p < last) sums(p, static_cast<int>(last - p));
}

}  // namespace crfrnn::CRFRNN_ISA
