// SPDX-License-Identifier: MIT
// Pixels as rows of labels: the order of the rows, conversion between planes and rows, softmax of a row.
#pragma once

#include <atomic>

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr float minus_infinity = -1e30f;  // the logit of an unused lane
constexpr int64_t grain = block_size(1024, 4);

// The order of the rows: that of the largest lattice (its points first, then the masked ones), otherwise the
// order of the grid. That lattice then accesses its rows sequentially. Rows passed in from outside are in the
// pixels' own order.
struct Order {
  const Lattice* lattice = nullptr;
  int first = -1;  // the kernel that determines the order
  Buffer rows, places;
  int32_t* pixel;  // [total] row -> pixel
  int32_t* row;    // [total] pixel -> row

  explicit Order(const Problem& problem, bool of_pixels = false)
      : rows(static_cast<size_t>(problem.total()) * sizeof(int32_t)),
        places(static_cast<size_t>(problem.total()) * sizeof(int32_t)), pixel(rows.as<int32_t>()),
        row(places.as<int32_t>()) {
    const int64_t total = problem.total();
    for (int m = 0; m < problem.kernel_count && !of_pixels; ++m) {
      const Kernel& kernel = problem.kernels[m];
      if (kernel.is_lattice && (!lattice || kernel.lattice.vertices > lattice->vertices)) {
        lattice = &kernel.lattice;
        first = m;
      }
    }
    if (!lattice) {
      for (int64_t i = 0; i < total; ++i) pixel[i] = row[i] = static_cast<int32_t>(i);
      return;
    }
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) row[i] = -1;
    });
    parallel_ranges(lattice->points, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pixel[i] = lattice->order[i];
        row[pixel[i]] = static_cast<int32_t>(i);
      }
    });
    int64_t next = lattice->points;
    for (int64_t i = 0; i < total; ++i) {
      if (row[i] >= 0) continue;
      if (next == total) refuse_table("it names a point twice");  // otherwise all rows would be taken
      pixel[next] = static_cast<int32_t>(i);
      row[i] = static_cast<int32_t>(next++);
    }
  }
};

// A row is exactly `width` numbers, usually the labels; rows are contiguous. The last row is followed by
// zeros, because packs may read past its end.
inline void clear_pad(const Problem& problem, float* rows, int64_t width) {
  for (int64_t i = 0; i < Problem::room; ++i) rows[problem.total() * width + i] = 0.f;
}
inline void clear_pad(const Problem& problem, float* rows) { clear_pad(problem, rows, problem.labels); }

// Calls body(first number) for every pack of the rows, for operations that do not depend on row boundaries.
template <class Body>
void each_pack(const Problem& problem, const Body& body) {
  constexpr int64_t lanes = Pack<float>::lanes;
  const int64_t packs = (problem.total() * problem.labels + lanes - 1) / lanes;
  parallel_ranges(packs, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * lanes; i < end * lanes; i += lanes) body(i);
  });
}

// Calls body(picture, first pixel, count) for blocks of 16 pixels of one picture.
template <class Body>
void each_block(const Problem& problem, const Body& body) {
  constexpr int64_t lanes = Pack<float>::lanes;
  const int64_t n = problem.pixels, blocks = (n + lanes - 1) / lanes;
  parallel_ranges(problem.batch * blocks, 64, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t at = task % blocks * lanes;
      body(task / blocks, at, static_cast<int>(n - at < lanes ? n - at : lanes));
    }
  });
}

CRFRNN_INLINE void ask_for_rows(const Problem& problem, const float* rows, const int32_t* place,
                                int64_t first) {
  const int64_t bytes = problem.labels * static_cast<int64_t>(sizeof(float)) + 63;
  for (int64_t p = first; p < first + Pack<float>::lanes && p < problem.total(); ++p)
    prefetch_bytes(rows + int64_t{place[p]} * problem.labels, bytes);
}

// planes [batch][labels][pixels] -> rows [total][width], followed by zeros; numbers beyond the labels are
// `pad`. Returns false if a pixel that is not masked contains NaN or infinity.
inline bool planes_to_rows(const Problem& problem, const Order& order, const float* planes, float* rows,
                           int64_t width, float pad) {
  using P = Pack<float>;
  const int64_t labels = problem.labels, n = problem.pixels;
  clear_pad(problem, rows, width);
  std::atomic<bool> finite{true};
  each_block(problem, [&](int64_t b, int64_t at, int count) {
    const int32_t* place = order.row + b * n + at;
    const auto some_pixels = P::Lanes::first(count);
    ask_for_rows(problem, rows, order.row, b * n + at + P::lanes);
    P difference = P::zero(), tile[P::lanes];  // difference: becomes NaN if a value is not finite
    for (int64_t l = 0; l < labels; l += P::lanes) {
      for (int i = 0; i < P::lanes; ++i) {
        tile[i] = l + i < labels ? P::load(planes + (b * labels + l + i) * n + at, some_pixels) : P::set(pad);
        difference = difference + (tile[i] - tile[i]);
      }
      P::transpose(tile);
      const auto some_numbers = P::Lanes::first(width - l);
      for (int p = 0; p < count; ++p) tile[p].store(rows + int64_t{place[p]} * width + l, some_numbers);
    }
    alignas(64) float lane[P::lanes];
    difference.store(lane);
    for (int p = 0; p < count; ++p)
      if (lane[p] != 0.f && (!problem.mask || problem.mask[b * n + at + p]))
        finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

inline bool planes_to_rows(const Problem& problem, const Order& order, const float* planes, float* rows) {
  return planes_to_rows(problem, order, planes, rows, problem.labels, 0.f);
}

inline void rows_to_planes(const Problem& problem, const Order& order, const float* rows, float* planes) {
  using P = Pack<float>;
  const int64_t labels = problem.labels, n = problem.pixels;
  each_block(problem, [&](int64_t b, int64_t at, int count) {
    const int32_t* place = order.row + b * n + at;
    const auto some_pixels = P::Lanes::first(count);
    ask_for_rows(problem, rows, order.row, b * n + at + P::lanes);
    P tile[P::lanes];
    for (int64_t l = 0; l < labels; l += P::lanes) {
      const auto some_labels = P::Lanes::first(labels - l);
      for (int p = 0; p < P::lanes; ++p)
        tile[p] = p < count ? P::load(rows + int64_t{place[p]} * labels + l, some_labels) : P::zero();
      P::transpose(tile);
      for (int i = 0; i < P::lanes && l + i < labels; ++i)
        tile[i].store(planes + (b * labels + l + i) * n + at, some_pixels);
    }
  });
}

// A row of labels as packs: a constant number NP, so that rows stay in registers, or a runtime number (NP =
// 0). NP = -4 and -8: narrow rows of so many labels, `together` of which fit in one pack.
template <int NP>
struct Packs {
  using P = Pack<float>;
  static constexpr int capacity = NP == 0 ? most_packs : NP < 0 ? 1 : NP;
  static constexpr int together = NP < 0 ? P::lanes / -NP : 1;
  int64_t labels;
  int count;
  P::Lanes tail;  // the labels of the last pack

  explicit Packs(const Problem& problem)
      : labels(problem.labels), count(static_cast<int>(problem.width() / P::lanes)),
        tail(P::Lanes::first(problem.labels - (problem.width() - P::lanes))) {}
  CRFRNN_INLINE operator int() const { return NP ? capacity : count; }
  CRFRNN_INLINE int64_t width() const { return int64_t{*this} * P::lanes; }
  // Numbers from one row to the next: a constant for narrow rows.
  CRFRNN_INLINE int64_t step() const { return NP < 0 ? -NP : labels; }

  // Loads the labels of a row; the lanes beyond them are zero.
  CRFRNN_INLINE void load(const float* row, P* out) const {
    if constexpr (NP < 0) {
      *out = P::template load_row<-NP>(row);
      return;
    }
    const int last = *this - 1;
    for (int b = 0; b < last; ++b) out[b] = P::load(row + b * P::lanes);
    out[last] = P::load(row + last * P::lanes, tail);
  }
  // Loads logits: the unused lanes do not contribute to the softmax.
  CRFRNN_INLINE void load_logits(const float* row, P* out) const {
    load(row, out);
    out[*this - 1] = P::select(tail, out[*this - 1], P::set(minus_infinity));
  }
  // Stores only the labels: the next row begins directly after them.
  CRFRNN_INLINE void store(const P* packs, float* row) const {
    if constexpr (NP < 0) return packs->template store_row<-NP>(row);
    const int last = *this - 1;
    for (int b = 0; b < last; ++b) packs[b].store(row + b * P::lanes);
    packs[last].store(row + last * P::lanes, tail);
  }
};

// Calls f with the number of packs: a constant up to 64 labels, for which rows fit in registers; otherwise 0
// (read at run time).
#if CRFRNN_SPECIALISED
#define CRFRNN_EACH_PACKS(use) use(0) use(1) use(2) use(3) use(4) use(-4) use(-8)
#else
#define CRFRNN_EACH_PACKS(use) use(0)
#endif

template <class F>
void with_packs(const Problem& problem, const F& f) {
  const int64_t packs = problem.width() / Pack<float>::lanes;
  if constexpr (specialised) {
    if (packs == 1) return f.template operator()<1>();
    if (packs == 2) return f.template operator()<2>();
    if (packs == 3) return f.template operator()<3>();
    if (packs == 4) return f.template operator()<4>();
  }
  f.template operator()<0>();
}

// The same for rows that are padded to 4 or 8 labels if they have no more.
constexpr int64_t padded(int64_t labels) { return !specialised || labels > 8 ? labels : labels > 4 ? 8 : 4; }
template <class F>
void with_padded_packs(const Problem& problem, const F& f) {
  if constexpr (specialised) {
    if (problem.labels == 4) return f.template operator()<-4>();
    if (problem.labels == 8) return f.template operator()<-8>();
  }
  with_packs(problem, f);
}

template <int NP>
CRFRNN_INLINE void softmax_packs(const Pack<float>* x, const Packs<NP>& packs, Pack<float>* e) {
  using P = Pack<float>;
  P total = P::zero();
  for (int b = 0; b < packs; ++b) {
    e[b] = exp(x[b]);
    total = total + e[b];
  }
  float sum = total.sum();
  // rare: only here is it worth subtracting the maximum, which takes a second reduction across the lanes
  if (!(sum > 1e-10f && sum < 1e30f)) {
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
}

template <int NP>
CRFRNN_INLINE void softmax(const Pack<float>* x, const Packs<NP>& packs, float* out) {
  Pack<float> e[Packs<NP>::capacity];
  softmax_packs(x, packs, e);
  packs.store(e, out);
}

}  // namespace crfrnn::CRFRNN_ISA
