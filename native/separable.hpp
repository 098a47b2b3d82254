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

  Taps(double theta, int64_t size, bool derivative)
      : radius(reach(theta, size)), values(sizeof(float) * static_cast<size_t>(2 * radius + 2 * outputs)) {
    float* t = values.as<float>();
    for (int i = 0; i < 2 * radius + 2 * outputs; ++i) {
      const double r = i - (outputs - 1) - radius;
      const double weight = r < -radius || r > radius ? 0.0 : std::exp(-0.5 * r * r / (theta * theta));
      t[i] = static_cast<float>(derivative ? weight * r * r / (theta * theta * theta) : weight);
    }
  }
  // Beyond five bandwidths a weight is below 4e-6 and all of them together below 6e-7 of the sum.
  static int reach(double theta, int64_t size) {
    const double r = std::ceil(5.0 * theta);
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

struct Separable {
  using P = Pack<float>;
  const Problem& problem;
  int64_t width;

  explicit Separable(const Problem& p) : problem(p), width(p.width()) {}

  // One line along x: `source(pixel, scalars)` gives the rows.
  template <class Source>
  void along_x(const Source& source, int64_t first_pixel, const Taps& taps, float* line, float* out) const {
    const int64_t n = problem.grid[2], packs = width / P::lanes;
    const int radius = taps.radius;
    for (int64_t x = 0; x < n; ++x) source(first_pixel + x, line + (radius + x) * width);
    for (int64_t x = 0; x < n; x += outputs)
      for (int64_t b = 0; b < packs; ++b) {
        const float* at = line + x * width + b * P::lanes;
        P sum[outputs];
        convolve(taps.values.as<float>(), radius, [&](int k) { return P::load(at + k * width); }, sum);
        for (int j = 0; j < outputs && x + j < n; ++j) sum[j].store(out + (x + j) * width + b * P::lanes);
      }
  }

  // Along x and then y. The lines after x live in a ring that stays in the cache, 2 radius + outputs of them.
  template <class Source>
  void plane(const Source& source, const Taps& taps_x, const Taps& taps_y, float* out) const {
    const int64_t rows = problem.grid[1], n = problem.grid[2], stride = n * width, packs = width / P::lanes;
    const int64_t planes = problem.batch * problem.grid[0];
    const int radius = taps_y.radius;
    const int64_t ring = 2 * radius + outputs, padded = n + 2 * taps_x.radius + outputs;
    const int threads = problem.threads < 1 ? 1 : problem.threads;
    const int64_t lines = static_cast<int64_t>(padded) * width;
    const Buffer line_rows(static_cast<size_t>(threads * lines) * sizeof(float)),
        ring_rows(static_cast<size_t>(threads * ring * stride) * sizeof(float));
    // Every strip computes the 2 radius lines around it again, so few strips; but enough to share out.
    int64_t strips = planes >= threads ? 1 : (2 * threads + planes - 1) / (planes ? planes : 1);
    if (strips > (rows + 31) / 32) strips = (rows + 31) / 32;
    parallel_for(planes * strips, threads, [&](int64_t task, int worker) {
      float* line = line_rows.as<float>() + worker * lines;
      float* kept = ring_rows.as<float>() + worker * ring * stride;
      for (int64_t i = 0; i < taps_x.radius * packs; ++i) P::zero().store(line + i * P::lanes);
      for (int64_t i = (taps_x.radius + n) * packs; i < padded * packs; ++i) P::zero().store(line + i * P::lanes);
      const int64_t base = task / strips * rows, strip = task % strips;
      const int64_t first = rows * strip / strips, last = rows * (strip + 1) / strips;
      int64_t ready = first - radius > 0 ? first - radius : 0;
      for (int64_t y = first; y < last; y += outputs) {
        const int64_t wanted = y + outputs + radius < rows ? y + outputs + radius : rows;
        for (; ready < wanted; ++ready)
          along_x(source, (base + ready) * n, taps_x, line, kept + ready % ring * stride);
        const int64_t from = y - radius, count = last - y < outputs ? last - y : outputs;
        for (int64_t c = 0; c < stride; c += P::lanes) {
          P sum[outputs];
          int64_t slot = (from + ring) % ring;
          convolve(
              taps_y.values.as<float>(), radius,
              [&](int k) {
                const int64_t at = slot;
                slot = slot + 1 == ring ? 0 : slot + 1;
                return from + k < 0 || from + k >= rows ? P::zero() : P::load(kept + at * stride + c);
              },
              sum);
          for (int64_t j = 0; j < count; ++j) sum[j].store(out + (base + y + j) * stride + c);
        }
      }
    });
  }

  // Along z, whose neighbours lie `stride` scalars apart.
  void along_z(const float* in, const Taps& taps, float* out) const {
    const int64_t n = problem.grid[0], stride = problem.grid[1] * problem.grid[2] * width;
    const int radius = taps.radius;
    constexpr int64_t tile = 16 * P::lanes;
    const int64_t tiles = (stride + tile - 1) / tile;
    parallel_for(problem.batch * tiles, problem.threads, [&](int64_t task, int) {
      const int64_t base = task / tiles * n * stride, first = task % tiles * tile;
      const int64_t last = first + tile < stride ? first + tile : stride;
      for (int64_t z = 0; z < n; z += outputs)
        for (int64_t c = first; c < last; c += P::lanes) {
          P sum[outputs];
          convolve(
              taps.values.as<float>(), radius,
              [&](int k) {
                const int64_t from = z + k - radius;
                return from < 0 || from >= n ? P::zero() : P::load(in + base + from * stride + c);
              },
              sum);
          for (int j = 0; j < outputs && z + j < n; ++j) sum[j].store(out + base + (z + j) * stride + c);
        }
    });
  }

  // K · source; a volume passes through `between`. derivative: the axis differentiated in θ, or -1.
  template <class Source>
  void apply(const double* theta, int derivative, const Source& source, float* between, float* out) const {
    const int64_t* grid = problem.grid;
    const bool volume = grid[0] > 1;
    plane(source, Taps(theta[2], grid[2], derivative == 2), Taps(theta[1], grid[1], derivative == 1), volume ? between : out);
    if (volume) along_z(between, Taps(theta[0], grid[0], derivative == 0), out);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
