// SPDX-License-Identifier: MIT
// The separable Gaussian over a grid of rows, one axis at a time: K = G_z ⊗ G_y ⊗ G_x, truncated where the
// weights fall below the precision of the rows. Wide Gaussians use coarse.hpp. Rows are `labels` contiguous
// numbers. Along every axis the sums run over a flat array, so no lanes are wasted on padding.
#pragma once

#include <utility>

#include "coarse.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr int outputs = 8;  // sums computed together: every value read contributes to this many
// pixels of a line processed together, so that the lines around them stay in the cache
constexpr int64_t tile = block_size(256, 32);

// exp(-r²/2θ²) for |r| <= radius, with outputs - 1 zeros on either side; or its derivative in θ: the same
// times r²/θ³.
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
  static int reach(double theta, int64_t size) {
    const double r = std::ceil(cut * theta);
    const double most = static_cast<double>(size - 1);
    return static_cast<int>(r < most ? r : (most < 0 ? 0 : most));
  }
};

// sum[j] += taps[k - G j] value for the outputs j that depend on value k, restricted to [Begin, End).
template <int G, int Begin, int End>
CRFRNN_INLINE void reach_outputs(const float* taps, int k, Pack<float> value, Pack<float>* sum) {
  for (int j = Begin; j < End; ++j)
    sum[j] = Pack<float>::fma(Pack<float>::set(taps[k - G * j]), value, sum[j]);
}

template <int G, int N, int... K, class Load>
CRFRNN_INLINE void ramp_up(const float* taps, const Load& load, Pack<float>* sum,
                           std::integer_sequence<int, K...>) {
  (reach_outputs<G, 0, K / G + 1>(taps, K, load(K), sum), ...);
}

template <int G, int N, int... K, class Load>
CRFRNN_INLINE void ramp_down(const float* taps, int count, const Load& load, Pack<float>* sum,
                             std::integer_sequence<int, K...>) {
  (reach_outputs<G, K / G + 1, N>(taps, count + K, load(count + K), sum), ...);
}

// Sums at N places G steps apart: sum[j] = Σ_k taps[k] load(k + G j). All sums use the same order of terms.
template <int G, int N, class Load>
CRFRNN_INLINE void convolve(const Taps& taps, const Load& load, Pack<float>* sum) {
  constexpr int ramp = G * (N - 1);
  const float* t = taps.first();
  const int count = taps.count();
  for (int j = 0; j < N; ++j) sum[j] = Pack<float>::zero();
  if (G == 1 && count < ramp) {  // the taps are padded with zeros, so every value can be added to every sum
    for (int k = 0; k < count + ramp; ++k) reach_outputs<1, 0, N>(t, k, load(k), sum);
    return;
  }
  using Ramp = std::make_integer_sequence<int, ramp>;
  ramp_up<G, N>(t, load, sum, Ramp{});
  for (int k = ramp; k < count; ++k) reach_outputs<G, 0, N>(t, k, load(k), sum);
  ramp_down<G, N>(t, count, load, sum, Ramp{});
}

struct Separable {
  using P = Pack<float>;
  static constexpr int slack = 64;  // numbers past the end of a line that packs may access
  const Problem& problem;
  int64_t labels, line_size, stride, ring;  // numbers per line and per line of the ring; lines in the ring
  int threads;
  Buffer memory, places;  // for all workers, sized for the widest kernel

  explicit Separable(const Problem& p)
      : problem(p), labels(p.labels),
        line_size((widest_tile(p) + 4 * outputs + 2 * widest(p, 2)) * labels + slack),
        // padding for a group that runs past the end
        stride(((widest_tile(p) + 4) * labels + 2 * P::lanes - 1) / P::lanes * P::lanes),
        ring(2 * widest(p, 1) + outputs), threads(p.threads < 1 ? 1 : p.threads),
        memory(any(p) ? static_cast<size_t>(threads * (line_size + ring * stride) + stride) * sizeof(float)
                      : 0),
        places(static_cast<size_t>(threads * ring) * sizeof(float*)) {}

  // Tiles per line; at least enough for all threads.
  static int64_t tile_count(const Problem& p) {
    const int64_t planes = p.batch * p.grid[0] > 0 ? p.batch * p.grid[0] : 1,
                  wanted = (p.threads + planes - 1) / planes;
    const int64_t most = (p.grid[2] + 15) / 16, count = (p.grid[2] + tile - 1) / tile;
    const int64_t tiles = count > wanted ? count : wanted;
    return tiles < most ? (tiles < 1 ? 1 : tiles) : (most < 1 ? 1 : most);
  }
  static int64_t widest_tile(const Problem& p) { return (p.grid[2] + tile_count(p) - 1) / tile_count(p); }
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

  // A group of G pixels of a line may fill whole packs better than one pixel: 3 × 21 labels are four packs
  // minus one number.
  int group(const Taps& taps) const {
    if (!specialised) return 1;
    int best = 1;
    double least = 1e9;
    for (const int g : {1, 2, 3, 4}) {
      const double packs = static_cast<double>((g * labels + P::lanes - 1) / P::lanes) / g;
      if (packs < 0.95 * least && taps.count() >= g * (outputs - 1)) best = g, least = packs;
    }
    return best;
  }

  // Along x, n pixels: from `line`, which begins `radius` pixels before the first one, to `out`. Calls
  // `ask(x)` for each pixel, so that the caller can prefetch during the computation.
  template <int G, class Ask>
  void along_x(const Taps& taps, const float* line, int64_t n, float* out, const Ask& ask) const {
    const int64_t block = G * labels;
    for (int64_t x = 0; x < n; x += G * outputs) {
      for (int64_t i = x; i < n && i < x + G * outputs; ++i) ask(i);
      for (int64_t c = 0; c < block; c += P::lanes) {
        const float* at = line + x * labels + c;
        P sum[outputs];
        convolve<G, outputs>(taps, [&](int k) CRFRNN_INLINE_LAMBDA { return P::load(at + k * labels); }, sum);
        float* to = out + x * labels + c;
        for (int j = 0; j < outputs && x + j * G < n; ++j) sum[j].store(to + j * block);
      }
    }
  }

  template <class Ask>
  void line_along_x(int grouped, const Taps& taps, const float* line, int64_t n, float* out,
                    const Ask& ask) const {
    if constexpr (specialised) {
      if (grouped == 2) return along_x<2>(taps, line, n, out, ask);
      if (grouped == 3) return along_x<3>(taps, line, n, out, ask);
      if (grouped == 4) return along_x<4>(taps, line, n, out, ask);
    }
    along_x<1>(taps, line, n, out, ask);
  }

  // Along x and then y, one tile of columns at a time. `source(pixel, numbers)` writes a row and may write
  // one pack past its end; `source.ask(pixel)` prefetches a row that is needed soon. The lines after x are
  // stored in a ring of 2 radius + outputs lines.
  template <class Source>
  void plane(const Source& source, const Taps& taps_x, const Taps& taps_y, float* out) const {
    const int64_t rows = problem.grid[1], n = problem.grid[2];
    const int64_t planes = problem.batch * problem.grid[0], tiles = tile_count(problem);
    const int radius = taps_y.radius, grouped = group(taps_x);
    const int64_t reach = taps_x.radius, lines = 2 * radius + outputs;
    float* nothing = memory.as<float>() + threads * (line_size + ring * stride);
    for (int64_t i = 0; i < stride; ++i) nothing[i] = 0.f;
    parallel_for(planes * tiles, threads, [&](int64_t task, int worker) {
      float* line = memory.as<float>() + worker * (line_size + ring * stride);
      float* kept = line + line_size;
      const float** at = places.as<const float*>() + worker * ring;
      const int64_t base = task / tiles * rows, left = n * (task % tiles) / tiles,
                    right = n * (task % tiles + 1) / tiles;
      const int64_t begin = left - reach > 0 ? left - reach : 0, end = right + reach < n ? right + reach : n;
      const int64_t length = (right - left) * labels, filled = (end - (left - reach)) * labels;
      for (int64_t i = 0; i < line_size; ++i) line[i] = 0.f;
      int64_t ready = 0;
      for (int64_t y = 0; y < rows; y += outputs) {
        check_stop();
        for (; ready < rows && ready < y + outputs + radius; ++ready) {
          for (int64_t x = begin; x < end; ++x)
            source((base + ready) * n + x, line + (x - (left - reach)) * labels);
          // clears what the last row wrote past the end
          for (int b = 0; b < slack; b += P::lanes) P::zero().store(line + filled + b);
          const int64_t below = ready + 1 < rows ? (base + ready + 1) * n + left : base * n + left;
          line_along_x(grouped, taps_x, line, right - left, kept + ready % lines * stride,
                       [&](int64_t x) CRFRNN_INLINE_LAMBDA { source.ask(below + x); });
        }
        const int64_t from = y - radius, count = rows - y < outputs ? rows - y : outputs;
        for (int64_t k = 0; k < lines; ++k)
          at[k] = from + k < 0 || from + k >= rows ? nothing : kept + (from + k) % lines * stride;
        float* to[outputs];
        for (int j = 0; j < outputs; ++j)
          to[j] = out + ((base + y + (j < count ? j : 0)) * n + left) * labels;
        const auto sums = [&](int64_t c, P* sum) CRFRNN_INLINE_LAMBDA {
          convolve<1, outputs>(taps_y, [&](int k) CRFRNN_INLINE_LAMBDA { return P::load(at[k] + c); }, sum);
        };
        int64_t c = 0;
        if (count == outputs)
          for (; c + P::lanes <= length; c += P::lanes) {
            P sum[outputs];
            sums(c, sum);
            for (int j = 0; j < outputs; ++j) sum[j].store(to[j] + c);
          }
        for (; c < length; c += P::lanes) {
          P sum[outputs];
          sums(c, sum);
          const auto some = P::Lanes::first(length - c);
          for (int64_t j = 0; j < count; ++j) sum[j].store(to[j] + c, some);
        }
      }
    });
  }

  // Along z, where neighbours are `stride` numbers apart.
  void along_z(const float* in, const Taps& taps, float* out) const {
    const int64_t n = problem.grid[0], stride = problem.grid[1] * problem.grid[2] * labels;
    const int radius = taps.radius;
    constexpr int64_t block = 16 * P::lanes;
    const int64_t blocks = (stride + block - 1) / block;
    parallel_for(problem.batch * blocks, problem.threads, [&](int64_t task, int) {
      const int64_t base = task / blocks * n * stride, first = task % blocks * block;
      const int64_t last = first + block < stride ? first + block : stride;
      for (int64_t z = 0; z < n; z += outputs)
        for (int64_t c = first; c < last; c += P::lanes) {
          P sum[outputs];
          convolve<1, outputs>(
              taps,
              [&](int k) {
                const int64_t from = z + k - radius;
                return from < 0 || from >= n ? P::zero() : P::load(in + base + from * stride + c);
              },
              sum);
          const auto some = P::Lanes::first(last - c);
          for (int j = 0; j < outputs && z + j < n; ++j)
            sum[j].store(out + base + (z + j) * stride + c, some);
        }
    });
  }

  // Computes K · source; a volume uses `between`, which needs room for one pack past its end.
  template <class Source>
  void apply(const double* theta, int derivative, const Source& source, float* between, float* out) const {
    const int64_t* grid = problem.grid;
    const bool volume = grid[0] > 1;
    if (derivative < 0 && Coarse::serves(problem, theta))
      Coarse(problem).plane(source, CoarseAxis(theta[2], grid[2]), CoarseAxis(theta[1], grid[1]),
                            volume ? between : out);
    else
      plane(source, Taps(theta[2], grid[2], derivative == 2), Taps(theta[1], grid[1], derivative == 1),
            volume ? between : out);
    if (volume) along_z(between, Taps(theta[0], grid[0], derivative == 0), out);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
