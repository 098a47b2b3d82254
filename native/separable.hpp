// SPDX-License-Identifier: MIT
// The exact separable Gaussian over a grid of rows, one axis after another: K = G_z ⊗ G_y ⊗ G_x, truncated where its
// weights fall below the precision of the rows.
#pragma once

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr int outputs = 8;  // computed together: every row read serves that many sums

// exp(-r²/2θ²) for |r| <= radius, with outputs - 1 zeros on either side; or its derivative in θ, r²/θ³ times it.
struct Taps {
  int radius;
  Buffer values;

  Taps(double theta, int64_t size, bool narrow, bool derivative)
      : radius(reach(theta, size, narrow)), values(sizeof(float) * static_cast<size_t>(2 * radius + 2 * outputs)) {
    float* t = values.as<float>();
    for (int i = 0; i < 2 * radius + 2 * outputs; ++i) {
      const double r = i - (outputs - 1) - radius;
      const double weight = r < -radius || r > radius ? 0.0 : std::exp(-0.5 * r * r / (theta * theta));
      t[i] = static_cast<float>(derivative ? weight * r * r / (theta * theta * theta) : weight);
    }
  }
  static int reach(double theta, int64_t size, bool narrow) {
    const double r = std::ceil((narrow ? 4.0 : 5.8) * theta);
    const double most = static_cast<double>(size - 1);
    return static_cast<int>(r < most ? r : (most < 0 ? 0 : most));
  }
};

// Sums of `outputs` neighbouring places along a line: sum[j] = Σ_k taps[k - j] line[k], k = 0 .. 2 radius + outputs - 1.
template <class Load>
CRFRNN_INLINE void convolve(const float* taps, int radius, const Load& load, Pack<float>* sum) {
  using P = Pack<float>;
  for (int j = 0; j < outputs; ++j) sum[j] = P::zero();
  const int count = 2 * radius + outputs;
  for (int k = 0; k < count; ++k) {
    const P value = load(k);
    const float* t = taps + k;
    for (int j = 0; j < outputs; ++j) sum[j] = P::fma(P::set(t[outputs - 1 - j]), value, sum[j]);
  }
}

template <class Row>
struct Separable {
  using P = Pack<float>;
  const Problem& problem;
  int64_t width;

  explicit Separable(const Problem& p) : problem(p), width(p.width()) {}

  // Along the innermost axis; `source(pixel, pack)` gives the rows.
  template <class Source>
  void inner(const Source& source, const Taps& taps, Row* out) const {
    const int64_t n = problem.grid[2], lines = problem.total() / n, packs = width / P::lanes;
    const int radius = taps.radius;
    const int64_t padded = n + 2 * radius + outputs;
    const Buffer scratch(static_cast<size_t>(problem.threads < 1 ? 1 : problem.threads) * static_cast<size_t>(padded * width) *
                         sizeof(float));
    const int64_t tasks = (lines + 7) / 8;
    parallel_for(tasks, problem.threads, [&](int64_t task, int worker) {
      float* line = scratch.as<float>() + static_cast<int64_t>(worker) * padded * width;
      for (int64_t i = 0; i < radius * packs; ++i) P::zero().store(line + i * P::lanes);
      for (int64_t i = (radius + n) * packs; i < padded * packs; ++i) P::zero().store(line + i * P::lanes);
      for (int64_t l = task * 8; l < lines && l < task * 8 + 8; ++l) {
        for (int64_t x = 0; x < n; ++x) source(l * n + x, line + (radius + x) * width);
        for (int64_t x = 0; x < n; x += outputs)
          for (int64_t b = 0; b < packs; ++b) {
            const float* at = line + x * width + b * P::lanes;
            P sum[outputs];
            convolve(taps.values.as<float>(), radius, [&](int k) { return P::load(at + k * width); }, sum);
            for (int j = 0; j < outputs && x + j < n; ++j) sum[j].store(out + (l * n + x + j) * width + b * P::lanes);
          }
      }
    });
  }

  // Along an outer axis of `n` places whose neighbours lie `stride` scalars apart.
  void outer(const Row* in, int64_t blocks, int64_t n, int64_t stride, const Taps& taps, Row* out) const {
    const int radius = taps.radius;
    constexpr int64_t tile = 16 * P::lanes;
    const int64_t tiles = (stride + tile - 1) / tile;
    parallel_for(blocks * tiles, problem.threads, [&](int64_t task, int) {
      const int64_t base = task / tiles * n * stride, first = task % tiles * tile;
      const int64_t last = first + tile < stride ? first + tile : stride;
      for (int64_t y = 0; y < n; y += outputs)
        for (int64_t c = first; c < last; c += P::lanes) {
          P sum[outputs];
          convolve(
              taps.values.as<float>(), radius,
              [&](int k) {
                const int64_t from = y + k - radius;
                return from < 0 || from >= n ? P::zero() : P::load(in + base + from * stride + c);
              },
              sum);
          for (int j = 0; j < outputs && y + j < n; ++j) sum[j].store(out + base + (y + j) * stride + c);
        }
    });
  }

  // K · source; returns whichever of the two buffers holds the result. derivative: the axis differentiated in θ, or -1.
  template <class Source>
  Row* apply(const double* theta, int derivative, bool narrow, const Source& source, Row* one, Row* two) const {
    const int64_t* grid = problem.grid;
    inner(source, Taps(theta[2], grid[2], narrow, derivative == 2), one);
    int64_t stride = width * grid[2], blocks = problem.batch * grid[0];
    for (int axis = 1; axis >= 0; --axis) {
      const int64_t n = grid[axis];
      if (n > 1 || derivative == axis) {
        outer(one, blocks, n, stride, Taps(theta[axis], n, narrow, derivative == axis), two);
        Row* swap = one;
        one = two;
        two = swap;
      }
      stride *= n;
      if (axis) blocks = problem.batch;
    }
    return one;
  }
};

}  // namespace crfrnn::CRFRNN_ISA
