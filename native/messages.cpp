// SPDX-License-Identifier: MIT
// The walks over a lattice and the sums over the grid that the forward and the backward pass share.
#include "messages.hpp"

namespace crfrnn::CRFRNN_ISA {

template <int NB>
void Messages::splat(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, int64_t slab, float* own,
                     float* next) {
  with_corners<NB>(sweep.lattice.dim, [&]<int V>() { sweep.template splat<V>(slab, source, own, next); });
}

template <int NB>
void Messages::begin(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, float* out) const {
  with_corners<NB>(sweep.lattice.dim, [&]<int V>() { sweep.template splat_and_begin<V>(source, out); });
}

template <int NB>
void Messages::spread_rows(const Sweep<float, NB>& sweep, const PixelRows<NB>& source, float* to) const {
  begin(sweep, source, between.as<float>());
  sweep.finish_blur(between.as<float>(), to);
}

template <int NB>
void Messages::lattice_messages(const Kernel& kernel, bool reverse, const float* rows, const float* scale,
                                float* out) const {
  const P factor = P::set(slice_factor<float>(kernel.lattice.dim));
  const Packs<NB> packs(problem);
  const int32_t* pixel_of = kernel.lattice.order;
  if (kernel.lattice.points < problem.total())
    each_pack(problem, [&](int64_t i) { P::zero().store(out + i); });
  const Sweep<float, NB> sweep = sweep_of<NB>(kernel, reverse);
  spread_rows<NB>(sweep, source_of<NB>(kernel, rows, scale), spread.as<float>());
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

void Messages::separable_messages(const Kernel& kernel, int derivative, const float* rows, const float* scale,
                                  float* out) const {
  separable.apply(kernel.theta, derivative, GridRows{rows, scale, order.row, labels, problem.width()},
                  volume.as<float>(), out);
}

#define CRFRNN_DEFINE(NB) CRFRNN_MESSAGES(, NB)
CRFRNN_EACH_PACKS(CRFRNN_DEFINE)

}  // namespace crfrnn::CRFRNN_ISA
