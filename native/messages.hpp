// SPDX-License-Identifier: MIT
// Message passing: K_m applied to the rows of all pixels, for one kernel after another.
#pragma once

#include "rows.hpp"
#include "separable.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

// What passes over all kernels need, allocated once for all iterations.
struct Messages {
  using P = Pack<float>;
  const Problem& problem;
  const Order& order;
  int64_t labels;
  Buffer between, spread;  // lattice rows, of the largest lattice
  Buffer scratch;          // of its sweeps
  Buffer volume;           // pixel rows between the second and the third axis of a volume
  Separable separable;

  Messages(const Problem& p, const Order& o)
      : problem(p), order(o), labels(p.labels), between(lattice_bytes(p)), spread(lattice_bytes(p)), scratch(scratch_bytes(p)),
        volume(p.grid[0] > 1 ? static_cast<size_t>(p.plane()) * sizeof(float) : 0), separable(p) {}

  static size_t lattice_bytes(const Problem& p) {
    int64_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m)
      if (p.kernels[m].is_lattice && p.kernels[m].lattice.vertices > most) most = p.kernels[m].lattice.vertices;
    const int64_t width = p.labels <= P::lanes ? RowShape<float, 1>::width_of(p.labels) : RowShape<float, 2>::width_of(p.labels);
    return static_cast<size_t>(most * width) * sizeof(float);
  }
  static size_t scratch_bytes(const Problem& p) {
    size_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m) {
      if (!p.kernels[m].is_lattice) continue;
      const size_t bytes = Sweep<float, 2>::scratch_bytes(p.kernels[m].lattice, p.threads);
      if (bytes > most) most = bytes;
    }
    return most;
  }

  // Over the labels from `column` on, as many as NB packs hold.
  template <int NB>
  Sweep<float, NB> sweep_of(const Kernel& kernel, bool reverse, int64_t column) const {
    return {kernel.lattice, kernel.weights, labels - column, reverse, problem.threads, scratch.as<float>()};
  }

  // The rows of the pixels in the order of a lattice's points, columns [column, column + NB packs), times a scale that is
  // given in the order of the rows or of the pixels.
  template <int NB>
  auto source_of(const Kernel& kernel, const float* rows, const float* scale, int64_t column, bool scale_by_row = false) const {
    const int32_t* pixel_of = order.lattice == &kernel.lattice ? nullptr : kernel.lattice.order;  // null: its own order
    const int32_t* place = order.lattice ? order.row : nullptr;                                  // null: the pixels' own order
    const int32_t* scaled = scale && !scale_by_row ? kernel.lattice.order : nullptr;
    P::Lanes some[NB];
    for (int b = 0; b < NB; ++b) some[b] = P::Lanes::first(labels - column - b * P::lanes);
    return [=, points = kernel.lattice.points, labels = labels, some0 = some[0], some1 = some[NB - 1]](int64_t p, P* out) CRFRNN_INLINE_LAMBDA {
      const int64_t row = !pixel_of ? p : place ? place[pixel_of[p]] : pixel_of[p];
      if (pixel_of && !place) ask_scattered<float, NB>(pixel_of, points, p, rows + column, labels);
      const float* from = rows + row * labels + column;
      out[0] = P::load(from, some0);
      if constexpr (NB == 2)
        out[1] = P::load(from + P::lanes, some1);
      else
        static_cast<void>(some1);
      if (!scale) return;
      const P factor = P::set(scale[scaled ? scaled[p] : row]);
      for (int b = 0; b < NB; ++b) out[b] = out[b] * factor;
    };
  }

  // splat and blur of columns [column, column + NB packs) of the rows; the result lies in `to`.
  template <int NB>
  void spread_columns(const Kernel& kernel, bool reverse, const float* rows, const float* scale, int64_t column, float* to) const {
    const Sweep<float, NB> sweep = sweep_of<NB>(kernel, reverse, column);
    const auto source = source_of<NB>(kernel, rows, scale, column);
    with_corners(kernel.lattice.dim, [&]<int V>() { sweep.template spread<V>(source, between.as<float>(), to); });
  }

  // K of one kernel except its closing scale; `out` [total][labels] in the pixels' own order, of the leading lattice in that of
  // the rows.
  template <int NB>
  void lattice_messages(const Kernel& kernel, bool reverse, const float* rows, const float* scale, float* out) const {
    const P factor = P::set(slice_factor<float>(kernel.lattice.dim));
    const int32_t* pixel_of = order.lattice == &kernel.lattice ? nullptr : kernel.lattice.order;
    if (kernel.lattice.points < problem.total()) each_pack(problem, [&](int64_t i) { P::zero().store(out + i); });
    for (int64_t column = 0; column < labels; column += NB * P::lanes) {
      const Sweep<float, NB> sweep = sweep_of<NB>(kernel, reverse, column);
      spread_columns<NB>(kernel, reverse, rows, scale, column, spread.as<float>());
      with_corners(kernel.lattice.dim, [&]<int V>() {
        sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
          sweep.template slice<V>(begin, end, spread.as<float>(), [&](int64_t p, P* sum) {
            float* to = out + (pixel_of ? pixel_of[p] : p) * labels + column;
            if (pixel_of) ask_scattered<float, NB>(pixel_of, kernel.lattice.points, p, out + column, labels);
            for (int b = 0; b < NB; ++b) {
              const int64_t left = labels - column - b * P::lanes;
              if (left > 0) (sum[b] * factor).store(to + b * P::lanes, P::Lanes::first(left));
            }
          });
        });
      });
    }
  }

  // Rows for the separable kernel, which walks the grid: they are scattered.
  struct GridRows {
    const float *rows, *scale;
    const int32_t* place;
    int64_t labels, width;

    CRFRNN_INLINE const float* row(int64_t pixel) const { return rows + int64_t{place[pixel]} * labels; }
    CRFRNN_INLINE void ask(int64_t pixel) const { prefetch_bytes(row(pixel), labels * static_cast<int64_t>(sizeof(float)) + 63); }
    CRFRNN_INLINE void operator()(int64_t pixel, float* line) const {
      const float* from = row(pixel);
      const P factor = P::set(scale ? scale[pixel] : 1.f);
      for (int64_t b = 0; b < width; b += P::lanes) (P::load(from + b) * factor).store(line + b);
    }
  };

  void separable_messages(const Kernel& kernel, int derivative, const float* rows, const float* scale, float* out) const {
    separable.apply(kernel.theta, derivative, GridRows{rows, scale, order.row, labels, problem.width()}, volume.as<float>(), out);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
