// SPDX-License-Identifier: MIT
// The steps of an iteration that forward and backward share.
#pragma once

#include "messages.hpp"
#include "transform.hpp"

namespace crfrnn::CRFRNN_ISA {

using P = Pack<float>;

// Calls body(row, message packs) for all rows, the message being the first lattice's where it fits the registers (NP packs),
// already scaled by `scale`; rows outside the lattice come with zeros. body(begin, end) ranges are fixed: sums over them
// do not depend on the number of threads.
template <int NP, class Body>
void each_row(const Problem& problem, const Order& order, const Messages& messages, bool fused, bool reverse,
              const float* scale, const Body& body) {
  int64_t from = 0;
  if constexpr (NP != 0) {
    if (fused) {
      const Kernel& kernel = problem.kernels[order.first];
      const Sweep<float, NP> sweep(kernel.lattice, kernel.weights, reverse, problem.threads);
      const float factor = slice_factor<float>(kernel.lattice.dim);
      with_corners(kernel.lattice.dim, [&]<int V>() {
        sweep.each_simplex_range([&](int64_t begin, int64_t end, int part) {
          sweep.template slice<V>(begin, end, messages.spread.as<float>(), [&](int64_t row, P* sum) {
            const P f = P::set(scale ? scale[order.pixel[row]] * factor : factor);
            for (int b = 0; b < NP; ++b) sum[b] = sum[b] * f;
            body(row, sum, part);
          });
        });
      });
      from = kernel.lattice.points;
    }
  }
  const int64_t total = problem.total(), parts = fixed_parts;
  if (from == total) return;
  parallel_for(parts, problem.threads, [&](int64_t part, int) {
    P none[Packs<NP>::capacity];
    for (auto& pack : none) pack = P::zero();
    for (int64_t row = from + (total - from) * part / parts; row < from + (total - from) * (part + 1) / parts; ++row)
      body(row, none, static_cast<int>(part));
  });
}

// The messages of all kernels but the fused one, each in the pixels' own order.
struct Others {
  Buffer pointers, memory;
  float** rows;

  Others(const Problem& problem, const Order& order, bool fused)
      : pointers(sizeof(float*) * static_cast<size_t>(problem.kernel_count)),
        memory(static_cast<size_t>((problem.kernel_count - fused) * problem.total() * problem.width()) * sizeof(float)),
        rows(pointers.as<float*>()) {
    float* next = memory.as<float>();
    for (int m = 0; m < problem.kernel_count; ++m) {
      const bool own = !(fused && m == order.first);
      rows[m] = own ? next : nullptr;
      if (own) next += problem.total() * problem.width();
    }
  }
};

// Runs every kernel over `rows` (K, or Kᵀ with the scales exchanged); at[m] is where its messages lie.
template <int NP>
void pass_messages(const Problem& problem, const Order& order, const Messages& messages, const Others& others,
                   bool fused, bool reverse, const RowsView& rows, const float** at) {
  constexpr int NB = NP == 1 ? 1 : 2;
  for (int m = 0; m < problem.kernel_count; ++m) {
    const Kernel& kernel = problem.kernels[m];
    const float* scale = reverse ? kernel.post : kernel.pre;
    at[m] = others.rows[m];
    if (!at[m]) continue;
    if (kernel.is_lattice)
      messages.lattice_messages<NB>(kernel, reverse, rows, scale, others.rows[m]);
    else
      messages.separable_messages(kernel, -1, rows, scale, others.rows[m]);
  }
  // Last, so that no other lattice overwrites the rows that the fused slice is about to read.
  if constexpr (NP != 0)
    if (fused) {
      const Kernel& kernel = problem.kernels[order.first];
      messages.spread_columns<NP>(kernel, reverse, rows, reverse ? kernel.post : kernel.pre, 0,
                                           messages.spread.as<float>());
    }
}

template <int NP>
CRFRNN_INLINE void load_message(const float* rows, int64_t pixel, const float* scale, const Packs<NP>& packs, P* out) {
  const P factor = P::set(scale ? scale[pixel] : 1.f);
  for (int b = 0; b < packs; ++b) out[b] = P::load(rows + pixel * packs.width() + b * P::lanes) * factor;
}

// The messages that lie in the pixels' own order are scattered for the rows.
template <int NP>
CRFRNN_INLINE void prefetch_messages(const Problem& problem, const Order& order, const float* const* at, int64_t row,
                                     const Packs<NP>& packs) {
  if (row + ahead >= problem.total()) return;
  const int64_t pixel = order.pixel[row + ahead];
  for (int m = 0; m < problem.kernel_count; ++m)
    if (at[m]) prefetch_bytes(at[m] + pixel * packs.width(), packs.width() * static_cast<int64_t>(sizeof(float)));
}

template <int NP>
CRFRNN_INLINE void write_marginals(const Problem& problem, int64_t pixel, const P* x, const Packs<NP>& packs, float* out) {
  if ((problem.mask && !problem.mask[pixel]) || (problem.clamp && problem.clamp[pixel] >= 0)) {
    const bool valid = !problem.mask || problem.mask[pixel];
    P row[Packs<NP>::capacity];
    for (int b = 0; b < packs; ++b) {
      alignas(64) float lanes[P::lanes] = {};
      const int64_t label = valid ? problem.clamp[pixel] - int64_t{b} * P::lanes : -1;
      if (label >= 0 && label < P::lanes) lanes[label] = 1.f;
      row[b] = P::load(lanes);
    }
    store_labels(row, packs, problem.labels, out);
    return;
  }
  softmax(x, packs, problem.labels, out);
}

// The number of packs as a constant where a row fits the registers.
template <class F>
void with_packs(const Problem& problem, const F& f) {
  const int64_t packs = problem.width() / Pack<float>::lanes;
  if (packs == 1) return f.template operator()<1>();
  if (packs == 2) return f.template operator()<2>();
  f.template operator()<0>();
}

}  // namespace crfrnn::CRFRNN_ISA
