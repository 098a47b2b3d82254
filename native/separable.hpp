// SPDX-License-Identifier: MIT
// The exact separable Gaussian over a grid of rows, one axis after another: K = G_z ⊗ G_y ⊗ G_x, truncated where its
// weights fall below the precision of the rows. Rows are `labels` numbers, one behind the other: along every axis the sums
// run over a flat array, so no lane is spent on padding.
#pragma once

#include <utility>

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr int outputs = 8;  // computed together: every row read serves that many sums

// exp(-r²/2θ²) for |r| <= radius, with zeros on either side; or its derivative in θ, r²/θ³ times it.
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
  int count() const { return 2 * radius + 1; }
  const float* first() const { return values.as<float>() + outputs - 1; }
  // Beyond 4.6 bandwidths all weights together are below 4.3e-6 of the sum.
  static int reach(double theta, int64_t size) {
    const double r = std::ceil(4.6 * theta);
    const double most = static_cast<double>(size - 1);
    return static_cast<int>(r < most ? r : (most < 0 ? 0 : most));
  }
};

// sum[j] += taps[k - G j] value for the outputs j that value k reaches: those from `from` on, the first `until` of them.
template <int G, int Begin, int End>
CRFRNN_INLINE void reach_outputs(const float* taps, int k, Pack<float> value, Pack<float>* sum) {
  for (int j = Begin; j < End; ++j) sum[j] = Pack<float>::fma(Pack<float>::set(taps[k - G * j]), value, sum[j]);
}

template <int G, int... K, class Load>
CRFRNN_INLINE void ramp_up(const float* taps, const Load& load, Pack<float>* sum, std::integer_sequence<int, K...>) {
  (reach_outputs<G, 0, K / G + 1>(taps, K, load(K), sum), ...);
}

template <int G, int... K, class Load>
CRFRNN_INLINE void ramp_down(const float* taps, int count, const Load& load, Pack<float>* sum, std::integer_sequence<int, K...>) {
  (reach_outputs<G, K / G + 1, outputs>(taps, count + K, load(count + K), sum), ...);
}

// Sums at `outputs` places G steps apart: sum[j] = Σ_k taps[k] load(k + G j). Every output adds in the same order.
template <int G, class Load>
CRFRNN_INLINE void convolve(const Taps& taps, const Load& load, Pack<float>* sum) {
  constexpr int ramp = G * (outputs - 1);
  const float* t = taps.first();
  const int count = taps.count();
  for (int j = 0; j < outputs; ++j) sum[j] = Pack<float>::zero();
  if (G == 1 && count < ramp) {  // the zeros around the taps make every value reach every output
    for (int k = 0; k < count + ramp; ++k) reach_outputs<1, 0, outputs>(t, k, load(k), sum);
    return;
  }
  using Ramp = std::make_integer_sequence<int, ramp>;
  ramp_up<G>(t, load, sum, Ramp{});
  for (int k = ramp; k < count; ++k) reach_outputs<G, 0, outputs>(t, k, load(k), sum);
  ramp_down<G>(t, count, load, sum, Ramp{});
}

struct Separable {
  using P = Pack<float>;
  static constexpr int slack = 64;  // numbers behind a line that packs may read or write
  const Problem& problem;
  int64_t labels, line_size, stride, ring;  // numbers in a line, in a line of the ring; lines of the ring
  int threads;
  Buffer memory, places;  // of all workers, for the widest kernel

  explicit Separable(const Problem& p)
      : problem(p), labels(p.labels), line_size((p.grid[2] + 4 * outputs + 2 * widest(p, 2)) * labels + slack),
        stride((p.grid[2] * labels + 4 * labels + 2 * P::lanes - 1) / P::lanes * P::lanes),  // room for a group that runs over
        ring(2 * widest(p, 1) + outputs), threads(p.threads < 1 ? 1 : p.threads),
        memory(any(p) ? static_cast<size_t>(threads * (line_size + ring * stride) + stride) * sizeof(float) : 0),
        places(static_cast<size_t>(threads * ring) * sizeof(float*)) {}

  static bool any(const Problem& p) {
    for (int m = 0; m < p.kernel_count; ++m)
      if (!p.kernels[m].is_lattice) return true;
    return false;
  }
  static int64_t widest(const Problem& p, int axis) {
    int64_t most = 0;
    for (int m = 0; m < p.kernel_count; ++m)
      if (!p.kernels[m].is_lattice && Taps::reach(p.kernels[m].theta[axis], p.grid[axis]) > most)
        most = Taps::reach(p.kernels[m].theta[axis], p.grid[axis]);
    return most;
  }

  // G pixels of a line fill whole packs better than one: 3 × 21 labels are four packs, less one number.
  int group(const Taps& taps) const {
    int best = 1;
    double least = 1e9;
    for (const int g : {1, 2, 3, 4}) {
      const double packs = static_cast<double>((g * labels + P::lanes - 1) / P::lanes) / g;
      if (packs < 0.95 * least && taps.count() >= g * (outputs - 1)) best = g, least = packs;
    }
    return best;
  }

  // Along x: from `line`, which begins `radius` pixels before the first, to `out`.
  template <int G>
  void along_x(const Taps& taps, const float* line, float* out) const {
    const int64_t n = problem.grid[2], block = G * labels;
    for (int64_t x = 0; x < n; x += G * outputs)
      for (int64_t c = 0; c < block; c += P::lanes) {
        const float* at = line + x * labels + c;
        P sum[outputs];
        convolve<G>(taps, [&](int k) { return P::load(at + k * labels); }, sum);
        float* to = out + x * labels + c;
        for (int j = 0; j < outputs && x + j * G < n; ++j) sum[j].store(to + j * block);
      }
  }

  void line_along_x(int grouped, const Taps& taps, const float* line, float* out) const {
    switch (grouped) {
      case 2: return along_x<2>(taps, line, out);
      case 3: return along_x<3>(taps, line, out);
      case 4: return along_x<4>(taps, line, out);
      default: return along_x<1>(taps, line, out);
    }
  }

  // Along x and then y; `source(pixel, scalars)` gives the rows and may write a pack beyond them. The lines after x live in
  // a ring that stays in the cache, 2 radius + outputs of them.
  template <class Source>
  void plane(const Source& source, const Taps& taps_x, const Taps& taps_y, float* out) const {
    const int64_t rows = problem.grid[1], n = problem.grid[2], length = n * labels;
    const int64_t planes = problem.batch * problem.grid[0];
    const int radius = taps_y.radius, grouped = group(taps_x);
    const int64_t lines = 2 * radius + outputs;
    float* nothing = memory.as<float>() + threads * (line_size + ring * stride);
    for (int64_t i = 0; i < stride; ++i) nothing[i] = 0.f;
    // Every strip computes the 2 radius lines around it again, so few strips; but enough to share out.
    int64_t strips = planes >= threads ? 1 : (threads + planes - 1) / (planes ? planes : 1);
    if (strips > (rows + 31) / 32) strips = (rows + 31) / 32;
    parallel_for(planes * strips, threads, [&](int64_t task, int worker) {
      float* line = memory.as<float>() + worker * (line_size + ring * stride);
      float* kept = line + line_size;
      const float** at = places.as<const float*>() + worker * ring;
      const int64_t lead = taps_x.radius * labels;
      for (int64_t i = 0; i < line_size; ++i) line[i] = 0.f;
      const int64_t base = task / strips * rows, strip = task % strips;
      const int64_t first = rows * strip / strips, last = rows * (strip + 1) / strips;
      int64_t ready = first - radius > 0 ? first - radius : 0;
      for (int64_t y = first; y < last; y += outputs) {
        const int64_t wanted = y + outputs + radius < rows ? y + outputs + radius : rows;
        for (; ready < wanted; ++ready) {
          for (int64_t x = 0; x < n; ++x) source((base + ready) * n + x, line + lead + x * labels);
          for (int b = 0; b < slack; b += P::lanes) P::zero().store(line + lead + length + b);  // what the last row left
          line_along_x(grouped, taps_x, line, kept + ready % lines * stride);
        }
        const int64_t from = y - radius, count = last - y < outputs ? last - y : outputs;
        for (int64_t k = 0; k < lines; ++k)
          at[k] = from + k < 0 || from + k >= rows ? nothing : kept + (from + k) % lines * stride;
        for (int64_t c = 0; c < length; c += P::lanes) {
          P sum[outputs];
          convolve<1>(taps_y, [&](int k) { return P::load(at[k] + c); }, sum);
          const auto some = P::Lanes::first(length - c);
          for (int64_t j = 0; j < count; ++j) sum[j].store(out + (base + y + j) * length + c, some);
        }
      }
    });
  }

  // Along z, whose neighbours lie `stride` numbers apart.
  void along_z(const float* in, const Taps& taps, float* out) const {
    const int64_t n = problem.grid[0], stride = problem.grid[1] * problem.grid[2] * labels;
    const int radius = taps.radius;
    constexpr int64_t tile = 16 * P::lanes;
    const int64_t tiles = (stride + tile - 1) / tile;
    parallel_for(problem.batch * tiles, problem.threads, [&](int64_t task, int) {
      const int64_t base = task / tiles * n * stride, first = task % tiles * tile;
      const int64_t last = first + tile < stride ? first + tile : stride;
      for (int64_t z = 0; z < n; z += outputs)
        for (int64_t c = first; c < last; c += P::lanes) {
          P sum[outputs];
          convolve<1>(
              taps,
              [&](int k) {
                const int64_t from = z + k - radius;
                return from < 0 || from >= n ? P::zero() : P::load(in + base + from * stride + c);
              },
              sum);
          const auto some = P::Lanes::first(last - c);
          for (int j = 0; j < outputs && z + j < n; ++j) sum[j].store(out + base + (z + j) * stride + c, some);
        }
    });
  }

  // K · source; a volume passes through `between`, which has room for a pack behind its end.
  template <class Source>
  void apply(const double* theta, int derivative, const Source& source, float* between, float* out) const {
    const int64_t* grid = problem.grid;
    const bool volume = grid[0] > 1;
    plane(source, Taps(theta[2], grid[2], derivative == 2), Taps(theta[1], grid[1], derivative == 1), volume ? between : out);
    if (volume) along_z(between, Taps(theta[0], grid[0], derivative == 0), out);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
