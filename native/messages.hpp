// SPDX-License-Identifier: MIT
// Message passing: applies K_m to the rows of all pixels, kernel by kernel.
#pragma once

#include "rows.hpp"
#include "separable.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

// The rows of the pixels in the order of a lattice's points, multiplied by a scale.
template <int NB>
struct PixelRows {
  using P = Pack<float>;
  Packs<NB> packs;
  const float *rows, *scale;  // scale: null means 1
  // null pixel_of: the rows are in the lattice's order; null place: in the pixels' order; null scaled: the
  // scale is in the order of the rows
  const int32_t *pixel_of, *place, *scaled;
  int64_t points;

  CRFRNN_INLINE void operator()(int64_t p, P* out) const {
    const int64_t row = !pixel_of ? p : place ? place[pixel_of[p]] : pixel_of[p];
    if (pixel_of && !place) ask_scattered<float>(pixel_of, points, p, rows, packs.labels, packs);
    packs.load(rows + row * packs.step(), out);
    if (!scale) return;
    const P factor = P::set(scale[scaled ? scaled[p] : row]);
    for (int b = 0; b < packs; ++b) out[b] = out[b] * factor;
  }
};

// Buffers for the passes over all kernels, allocated once for all iterations.
struct Messages {
  using P = Pack<float>;
  const Problem& problem;
  const Order& order;
  int64_t labels;
  Buffer between, spread;  // lattice rows, sized for the largest lattice
  Buffer scratch;          // scratch memory of its sweeps
  Buffer volume;           // pixel rows between the second and third axis of a volume
  Separable separable;

  Messages(const Problem& p, const Order& o)
      : problem(p), order(o), labels(p.labels), between(lattice_bytes(p)), spread(lattice_bytes(p)),
        scratch(scratch_bytes(p)), volume(p.grid[0] > 1 ? static_cast<size_t>(p.plane()) * sizeof(float) : 0),
        separable(p) {}

  static size_t lattice_bytes(const Problem& p) {
    int64_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m)
      if (p.kernels[m].is_lattice && p.kernels[m].lattice.vertices > most)
        most = p.kernels[m].lattice.vertices;
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
    return {kernel.lattice,  kernel.weights,     labels, narrow_packs, reverse,
            problem.threads, scratch.as<float>()};
  }

  // The rows of the pixels in the order of a lattice's points, multiplied by a scale in the order of the rows
  // or of the pixels.
  template <int NB>
  PixelRows<NB> source_of(const Kernel& kernel, const float* rows, const float* scale,
                          bool scale_by_row = false) const {
    const int32_t* const order_of = kernel.lattice.order;
    return {Packs<NB>(problem),
            rows,
            scale,
            order.lattice == &kernel.lattice ? nullptr : order_of,
            order.lattice ? order.row : nullptr,
            scale_by_row ? nullptr : order_of,
            kernel.lattice.points};
  }

  // The walks over a lattice, compiled once (messages.cpp): Sweep::splat, splat_and_begin and spread,
  // dispatched on the dimension of the lattice.
  template <int NB>
  static void splat(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, int64_t slab, float* own,
                    float* next);
  template <int NB>
  void begin(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, float* out) const;
  template <int NB>
  void spread_rows(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, float* to) const;
  // Applies K of one kernel without its closing scale; `out` is [total][labels] in the pixels' own order.
  template <int NB>
  void lattice_messages(const Kernel& kernel, bool reverse, const float* rows, const float* scale,
                        float* out) const;

  // Reads rows for the separable kernel, which walks the grid, so the rows are scattered.
  struct GridRows {
    const float *rows, *scale;
    const int32_t* place;
    int64_t labels, width;

    CRFRNN_INLINE const float* row(int64_t pixel) const { return rows + int64_t{place[pixel]} * labels; }
    CRFRNN_INLINE void ask(int64_t pixel) const {
      prefetch(place + pixel + far_ahead);
      prefetch_bytes(row(pixel), labels * static_cast<int64_t>(sizeof(float)) + 63);
    }
    CRFRNN_INLINE float factor(int64_t pixel) const { return scale ? scale[pixel] : 1.f; }
    CRFRNN_INLINE void operator()(int64_t pixel, float* line) const {
      const float* from = row(pixel);
      const P times = P::set(factor(pixel));
      for (int64_t b = 0; b < width; b += P::lanes) (P::load(from + b) * times).store(line + b);
    }
  };

  // Applies K of one separable kernel without its closing scale, or the derivative of K in θ along an axis
  // (-1: K itself).
  void separable_messages(const Kernel& kernel, int derivative, const float* rows, const float* scale,
                          float* out) const;
};

#define CRFRNN_MESSAGES(keyword, NB)                                                                        \
  keyword template void Messages::splat(const Sweep<float, NB>&, const PixelRows<NB>&, int64_t, float*,     \
                                        float*);                                                            \
  keyword template void Messages::begin(const Sweep<float, NB>&, const PixelRows<NB>&, float*) const;       \
  keyword template void Messages::spread_rows(const Sweep<float, NB>&, const PixelRows<NB>&, float*) const; \
  keyword template void Messages::lattice_messages<NB>(const Kernel&, bool, const float*, const float*,     \
                                                       float*) const;
#define CRFRNN_EXTERN(NB) CRFRNN_MESSAGES(extern, NB)
CRFRNN_EACH_PACKS(CRFRNN_EXTERN)
#undef CRFRNN_EXTERN

}  // namespace crfrnn::CRFRNN_ISA
