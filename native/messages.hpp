// SPDX-License-Identifier: MIT
// Message passing: K_m applied to the rows of all pixels, for one kernel after another.
#pragma once

#include "rows.hpp"
#include "separable.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr int64_t ahead = 16;  // rows between asking for one and reading it

// Buffers for one pass over all kernels.
struct Messages {
  using P = Pack<float>;
  const Problem& problem;
  const Order& order;
  int64_t width;
  Buffer between, spread;              // lattice rows, of the largest lattice
  Buffer lines;            // pixel rows between the second and the third axis of a volume

  Messages(const Problem& p, const Order& o)
      : problem(p), order(o), width(p.width()),
        between(lattice_bytes(p)), spread(lattice_bytes(p)), lines(volume_bytes(p)) {}
  static int64_t group_width(const Problem& p) { return p.width() < 32 ? 16 : 32; }
  static size_t lattice_bytes(const Problem& p) {
    int64_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m)
      if (p.kernels[m].is_lattice && p.kernels[m].lattice.vertices > most) most = p.kernels[m].lattice.vertices;
    return static_cast<size_t>(most * group_width(p)) * sizeof(float);
  }
  static size_t volume_bytes(const Problem& p) {
    return p.grid[0] > 1 ? static_cast<size_t>(p.total() * p.width()) * sizeof(float) : 0;
  }

  // splat and blur of columns [column, column + NB packs) of the rows; the result lies in spread.
  template <int NB>
  void spread_columns(const Kernel& kernel, bool reverse, const RowsView& rows, const float* scale, int64_t column,
                      float* to) const {
    const Sweep<float, NB> sweep(kernel.lattice, kernel.weights, reverse, problem.threads);
    const bool own = order.lattice == &kernel.lattice;
    const int32_t* pixel_of = kernel.lattice.order;
    const auto source = [&](int64_t p, P* out) {
      const int64_t pixel = pixel_of[p], row = own ? p : order.row[pixel];
      const P factor = P::set(scale ? scale[pixel] : 1.f);
      for (int b = 0; b < NB; ++b) out[b] = P::load(rows.data + row * rows.stride + column + b * P::lanes) * factor;
    };
    with_corners(kernel.lattice.dim, [&]<int V>() { sweep.template spread<V>(source, between.as<float>(), to); });
  }

  // K of one kernel in the pixels' own order, except its closing scale; `out` [total][width].
  template <int NB>
  void lattice_messages(const Kernel& kernel, bool reverse, const RowsView& rows, const float* scale, float* out) const {
    const Sweep<float, NB> sweep(kernel.lattice, kernel.weights, reverse, problem.threads);
    const P factor = P::set(slice_factor<float>(kernel.lattice.dim));
    if (kernel.lattice.points < problem.total())
      parallel_ranges(problem.total(), grain, problem.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * width; i < end * width; i += P::lanes) P::zero().store(out + i);
      });
    for (int64_t column = 0; column < width; column += NB * P::lanes) {
      spread_columns<NB>(kernel, reverse, rows, scale, column, spread.as<float>());
      with_corners(kernel.lattice.dim, [&]<int V>() {
        sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
          sweep.template slice<V>(begin, end, spread.as<float>(), [&](int64_t p, P* sum) {
            float* to = out + int64_t{kernel.lattice.order[p]} * width + column;
            for (int b = 0; b < NB; ++b) (sum[b] * factor).store(to + b * P::lanes);
          });
        });
      });
    }
  }

  void separable_messages(const Kernel& kernel, int derivative, const RowsView& rows, const float* scale, float* out) const {
    const Separable separable(problem);
    const int64_t total = problem.total();
    const auto source = [&](int64_t pixel, float* line) {
      if (pixel + ahead < total) prefetch_bytes(rows.data + int64_t{order.row[pixel + ahead]} * rows.stride, rows.stride * sizeof(float));
      const float* from = rows.data + int64_t{order.row[pixel]} * rows.stride;
      const P factor = P::set(scale ? scale[pixel] : 1.f);
      for (int64_t b = 0; b < width; b += P::lanes) (P::load(from + b) * factor).store(line + b);
    };
    separable.apply(kernel.theta, derivative, source, lines.as<float>(), out);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
