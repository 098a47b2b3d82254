// SPDX-License-Identifier: MIT
// Pixels as rows of labels: the order they are kept in, planes to rows and back, softmax of a row.
#pragma once

#include <atomic>

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr float minus_infinity = -1e30f;  // the logit of a lane that is no label
constexpr int64_t grain = 1024;

// The order of the rows: that of the first lattice (its points first, the masked ones after them), else the grid's own.
// With it that lattice reads and writes its rows one after the other.
struct Order {
  const Lattice* lattice = nullptr;
  int first = -1;  // the kernel whose order it is
  Buffer rows, places;
  int32_t* pixel;  // [total] row -> pixel
  int32_t* row;    // [total] pixel -> row

  explicit Order(const Problem& problem)
      : rows(static_cast<size_t>(problem.total()) * sizeof(int32_t)), places(static_cast<size_t>(problem.total()) * sizeof(int32_t)),
        pixel(rows.as<int32_t>()), row(places.as<int32_t>()) {
    const int64_t total = problem.total();
    for (int m = 0; m < problem.kernel_count && !lattice; ++m)
      if (problem.kernels[m].is_lattice) {
        lattice = &problem.kernels[m].lattice;
        first = m;
      }
    if (!lattice) {
      for (int64_t i = 0; i < total; ++i) pixel[i] = row[i] = static_cast<int32_t>(i);
      return;
    }
    if (lattice->points < total)
      for (int64_t i = 0; i < total; ++i) row[i] = -1;
    parallel_ranges(lattice->points, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pixel[i] = lattice->order[i];
        row[pixel[i]] = static_cast<int32_t>(i);
      }
    });
    int64_t next = lattice->points;
    if (next < total)
      for (int64_t i = 0; i < total; ++i)
        if (row[i] < 0) {
          pixel[next] = static_cast<int32_t>(i);
          row[i] = static_cast<int32_t>(next++);
        }
  }
};

// planes [batch][labels][pixels] -> rows [total][width]; the lanes beyond the labels get `filler`. False: a pixel that is
// not masked holds NaN or infinity.
inline bool planes_to_rows(const Problem& problem, const Order& order, const float* planes, float filler, float* rows) {
  using P = Pack<float>;
  const int64_t labels = problem.labels, n = problem.pixels, width = problem.width();
  const int64_t blocks = (n + P::lanes - 1) / P::lanes;
  std::atomic<bool> finite{true};
  parallel_ranges(problem.batch * blocks, 64, problem.threads, [&](int64_t begin, int64_t end) {
    alignas(64) float tile[P::lanes][P::lanes];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, at = task % blocks * P::lanes;
      const int count = static_cast<int>(n - at < P::lanes ? n - at : P::lanes);
      P difference = P::zero();  // NaN where a value is not finite
      for (int64_t l = 0; l < width; l += P::lanes) {
        const int some = static_cast<int>(labels - l < P::lanes ? labels - l : P::lanes);
        for (int i = 0; i < P::lanes; ++i) {
          const P value = i < some ? P::load(planes + (b * labels + l + i) * n + at, count) : P::set(filler);
          difference = difference + (value - value);
          value.store(tile[i]);
        }
        for (int p = 0; p < count; ++p) {
          float* row = rows + int64_t{order.row[b * n + at + p]} * width + l;
          for (int i = 0; i < P::lanes; ++i) row[i] = tile[i][p];
        }
      }
      alignas(64) float lane[P::lanes];
      difference.store(lane);
      for (int p = 0; p < count; ++p)
        if (lane[p] != 0.f && (!problem.mask || problem.mask[b * n + at + p])) finite.store(false, std::memory_order_relaxed);
    }
  });
  return finite.load();
}

inline void rows_to_planes(const Problem& problem, const Order& order, const float* rows, float* planes) {
  using P = Pack<float>;
  const int64_t labels = problem.labels, n = problem.pixels, width = problem.width();
  const int64_t blocks = (n + P::lanes - 1) / P::lanes;
  parallel_ranges(problem.batch * blocks, 64, problem.threads, [&](int64_t begin, int64_t end) {
    alignas(64) float tile[P::lanes][P::lanes];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, at = task % blocks * P::lanes;
      const int count = static_cast<int>(n - at < P::lanes ? n - at : P::lanes);
      for (int64_t l = 0; l < labels; l += P::lanes) {
        const int some = static_cast<int>(labels - l < P::lanes ? labels - l : P::lanes);
        for (int p = 0; p < count; ++p) {
          const float* row = rows + int64_t{order.row[b * n + at + p]} * width + l;
          for (int i = 0; i < P::lanes; ++i) tile[i][p] = row[i];
        }
        for (int i = 0; i < some; ++i) P::load(tile[i]).store(planes + (b * labels + l + i) * n + at, count);
      }
    }
  });
}

constexpr int most_packs = 64;  // 1024 labels

// How many packs a row has: NP where that is a constant, so that rows live in registers, else read at run time.
template <int NP>
struct Packs {
  int count;
  static constexpr int capacity = NP ? NP : most_packs;

  explicit Packs(int64_t width) : count(static_cast<int>(width / Pack<float>::lanes)) {}
  CRFRNN_INLINE operator int() const { return NP ? NP : count; }
  CRFRNN_INLINE int64_t width() const { return int64_t{NP ? NP : count} * Pack<float>::lanes; }
};

// Rows that lie `stride` numbers apart. Packs may read beyond a row, into the next one: lanes that are no label never meet
// one that is, and count for nothing.
struct RowsView {
  const float* data;
  int64_t stride;
};

// Only the labels: the next row begins right behind them.
CRFRNN_INLINE void store_labels(const Pack<float>* packs, int count, int64_t labels, float* out) {
  constexpr int lanes = Pack<float>::lanes;
  for (int b = 0; b < count; ++b) {
    const int64_t left = labels - b * lanes;
    if (left >= lanes)
      packs[b].store(out + b * lanes);
    else if (left > 0)
      packs[b].store(out + b * lanes, static_cast<int>(left));
  }
}

template <int NP>
CRFRNN_INLINE void softmax(const Pack<float>* x, const Packs<NP>& packs, int64_t labels, float* out) {
  using P = Pack<float>;
  P e[Packs<NP>::capacity], total = P::zero();
  for (int b = 0; b < packs; ++b) {
    e[b] = exp(x[b]);
    total = total + e[b];
  }
  float sum = total.sum();
  if (!(sum > 1e-10f && sum < 1e30f)) {  // rare: only then is the maximum, a second walk across the lanes, worth its time
    P most = x[0];
    for (int b = 1; b < packs; ++b) most = P::max(most, x[b]);
    const P top = P::set(most.most());
    total = P::zero();
    for (int b = 0; b < packs; ++b) {
      e[b] = exp(x[b] - top);
      total = total + e[b];
    }
    sum = total.sum();
  }
  const P scale = P::set(1.f / sum);
  for (int b = 0; b < packs; ++b) e[b] = e[b] * scale;
  store_labels(e, packs, labels, out);
}

}  // namespace crfrnn::CRFRNN_ISA
