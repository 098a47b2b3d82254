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
    return static_cast<size_t>(most * RowShape<float, 0>::width_of(p.labels)) * sizeof(float);
  }
  static size_t scratch_bytes(const Problem& p) {
    size_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m) {
      if (!p.kernels[m].is_lattice) continue;
      const size_t bytes = Sweep<float, 0>::scratch_bytes(p.kernels[m].lattice, p.labels, p.threads);
      if (bytes > most) most = bytes;
    }
    return most;
  }

  template <int NB>
  Sweep<float, NB> sweep_of(const Kernel& kernel, bool reverse) const {
    return {kernel.lattice, kernel.weights, labels, reverse, problem.threads, scratch.as<float>()};
  }

  // The rows of the pixels in the order of a lattice's points, times a scale that is given in the order of the rows or of the pixels.
  template <int NB>
  auto source_of(const Kernel& kernel, const float* rows, const float* scale, bool scale_by_row = false) const {
    const int32_t* pixel_of = order.lattice == &kernel.lattice ? nullptr : kernel.lattice.order;  // null: its own order
    const int32_t* place = order.lattice ? order.row : nullptr;                                  // null: the pixels' own order
    const int32_t* scaled = scale && !scale_by_row ? kernel.lattice.order : nullptr;
    return [=, points = kernel.lattice.points, labels = labels, packs = Packs<NB>(problem)](int64_t p, P* out) CRFRNN_INLINE_LAMBDA {
      const int64_t row = !pixel_of ? p : place ? place[pixel_of[p]] : pixel_of[p];
      if (pixel_of && !place) ask_scattered<float>(pixel_of, points, p, rows, labels, packs);
      packs.load(rows + row * labels, out);
      if (!scale) return;
      const P factor = P::set(scale[scaled ? scaled[p] : row]);
      for (int b = 0; b < packs; ++b) out[b] = out[b] * factor;
    };
  }

  // splat and blur of the rows; the result lies in `to`.
  template <int NB>
  void spread_rows(const Kernel& kernel, bool reverse, const float* rows, const float* scale, float* to) const {
    const Sweep<float, NB> sweep = sweep_of<NB>(kernel, reverse);
    const auto source = source_of<NB>(kernel, rows, scale);
    with_corners<NB>(kernel.lattice.dim, [&]<int V>() { sweep.template spread<V>(source, between.as<float>(), to); });
  }

  // K of one kernel except its closing scale; `out` [total][labels] in the pixels' own order.
  template <int NB>
  void lattice_messages(const Kernel& kernel, bool reverse, const float* rows, const float* scale, float* out) const {
    const P factor = P::set(slice_factor<float>(kernel.lattice.dim));
    const Packs<NB> packs(problem);
    const int32_t* pixel_of = kernel.lattice.order;
    if (kernel.lattice.points < problem.total()) each_pack(problem, [&](int64_t i) { P::zero().store(out + i); });
    const Sweep<float, NB> sweep = sweep_of<NB>(kernel, reverse);
    spread_rows<NB>(kernel, reverse, rows, scale, spread.as<float>());
    with_corners<NB>(kernel.lattice.dim, [&]<int V>() {
      sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
        sweep.template slice<V>(begin, end, spread.as<float>(), [&](int64_t p, P* sum) {
          ask_scattered<float>(pixel_of, kernel.lattice.points, p, out, labels, packs);
          for (int b = 0; b < packs; ++b) sum[b] = sum[b] * factor;
          packs.store(sum, out + int64_t{pixel_of[p]} * labels);
        });
      });
    });
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
