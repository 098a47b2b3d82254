// SPDX-License-Identifier: MIT
// The label of the largest logit of each pixel, the lowest of equals.
#pragma once

#include "rows.hpp"

namespace crfrnn::CRFRNN_ISA {

// Of a pack of pixels: the largest logit so far and its label.
struct Likeliest {
  using P = Pack<float>;
  P most = P::set(-INFINITY), label = P::zero();

  // Adds the logits of a label; labels come in ascending order.
  CRFRNN_INLINE void add(P logits, int64_t l) {
    take(P::less(most, logits), P::set(static_cast<float>(l)));
    most = P::max(most, logits);
  }
  // Adds the result over other labels.
  CRFRNN_INLINE void add(const Likeliest& others) {
    const P lower = P::less(others.label, label), equal = P::if_equal(most, others.most, lower);
    take(P::less(most, others.most) + equal, others.label);
    most = P::max(most, others.most);
  }
  void store(int16_t* out, int64_t count) const {
    alignas(64) float lane[P::lanes];
    label.store(lane);
    for (int64_t p = 0; p < P::lanes && p < count; ++p) out[p] = static_cast<int16_t>(lane[p]);
  }

 private:
  // l where `where` is 1, unchanged where it is 0; exact, since labels are small whole numbers.
  CRFRNN_INLINE void take(P where, P l) { label = P::fma(where, l - label, label); }
};

inline void rows_to_labels(const Problem& problem, const Order& order, const float* rows, int16_t* labels) {
  using P = Pack<float>;
  each_block(problem, [&](int64_t b, int64_t at, int count) {
    const int32_t* place = order.row + b * problem.pixels + at;
    ask_for_rows(problem, rows, order.row, b * problem.pixels + at + P::lanes);
    Likeliest best;
    for (int64_t l = 0; l < problem.labels; l += P::lanes) {
      const auto some_labels = P::Lanes::first(problem.labels - l);
      P tile[P::lanes];
      for (int p = 0; p < P::lanes; ++p)
        tile[p] = p < count ? P::load(rows + int64_t{place[p]} * problem.labels + l, some_labels) : P::zero();
      P::transpose(tile);
      for (int i = 0; i < P::lanes && l + i < problem.labels; ++i) best.add(tile[i], l + i);
    }
    best.store(labels + b * problem.pixels + at, count);
  });
}

inline void write_rows(const Problem& problem, const Order& order, const float* rows, const Result& result) {
  if (result.logits)
    rows_to_planes(problem, order, rows, result.logits);
  else
    rows_to_labels(problem, order, rows, result.labels);
}

}  // namespace crfrnn::CRFRNN_ISA
