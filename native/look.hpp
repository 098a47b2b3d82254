// SPDX-License-Identifier: MIT
// Examines planes before they become rows: the softmax of every pixel, and the labels that reach δ.
#pragma once

#include "columns.hpp"

namespace crfrnn::CRFRNN_ISA {

using P = Pack<float>;

constexpr int64_t block_pixels = block_size(128, 32);
constexpr int block_packs = block_pixels / Pack<float>::lanes;

// Calls body(picture, first pixel, count, worker) for blocks of pixels of one picture, or for every `step`-th
// block.
template <class Body>
void each_wide_block(const Problem& problem, const Body& body, int64_t step = 1) {
  const int64_t n = problem.pixels, every = block_pixels * step, blocks = (n + every - 1) / every;
  parallel_for(problem.batch * blocks, problem.threads, [&](int64_t task, int worker) {
    const int64_t at = task % blocks * every;
    body(task / blocks, at, n - at < block_pixels ? n - at : block_pixels, worker);
  });
}

// A block of a plane, with 0 beyond the picture and where the mask excludes a pixel, regardless of its value.
struct Valid {
  P is[block_packs];
  bool masked;

  Valid(const Problem& problem, int64_t first, int64_t count) : masked(problem.mask) {
    if (!masked) return;
    alignas(64) float valid[block_pixels] = {};
    for (int64_t i = 0; i < count; ++i) valid[i] = problem.mask[first + i] ? 1.f : 0.f;
    for (int i = 0; i < block_packs; ++i) is[i] = P::load(valid + i * P::lanes);
  }
  CRFRNN_INLINE P load(const float* plane, int i, int64_t count) const {
    const int64_t left = count - i * P::lanes;
    const P value = left >= P::lanes ? P::load(plane + i * P::lanes)
                                     : P::load(plane + i * P::lanes, P::Lanes::first(left));
    return masked ? P::if_equal(is[i], P::set(1.f), value) : value;
  }
};

inline int packs_of(int64_t count) { return static_cast<int>((count + P::lanes - 1) / P::lanes); }

// For the marginals softmax(x), x in planes: computes the largest logit of each pixel and the factor of
// exp(x_l - top), which is 0 if the pixel is known or masked. `seen` receives the labels whose marginal
// reaches δ anywhere, or is null. step: examines only every step-th block. Returns false if a pixel that is
// not masked contains NaN or infinity.
inline bool look(const Problem& problem, const float* planes, float* top, float* scale, LabelSet* seen,
                 int64_t step = 1) {
  const int64_t labels = problem.labels, n = problem.pixels;
  const int64_t workers = problem.threads < 1 ? 1 : problem.threads;
  const Watch watch(labels * P::lanes, labels, seen ? workers : 0);
  if (seen) watch.clear(workers);
  const Buffer exponentials(static_cast<size_t>(workers * labels * block_pixels) * sizeof(float));
  std::atomic<bool> finite{true};
  each_wide_block(
      problem,
      [&](int64_t b, int64_t at, int64_t count, int worker) {
        const int64_t first = b * n + at;
        const float* from = planes + b * labels * n + at;
        const Valid valid(problem, first, count);
        const int packs = packs_of(count);
        float* e = exponentials.as<float>() + worker * labels * block_pixels;
        P most[block_packs], sum[block_packs], odd = P::zero();
        for (int i = 0; i < packs; ++i) most[i] = valid.load(from, i, count), sum[i] = P::zero();
        for (int64_t l = 0; l < labels; ++l)
          for (int i = 0; i < packs; ++i) {
            const P x = valid.load(from + l * n, i, count);
            most[i] = P::max(most[i], x);
            odd = odd + (x - x);  // NaN if x is not finite
          }
        if (!(odd.sum() == 0.f)) {
          finite.store(false, std::memory_order_relaxed);
          return;
        }
        for (int64_t l = 0; l < labels; ++l)
          for (int i = 0; i < packs; ++i) {
            const P term = exp(valid.load(from + l * n, i, count) - most[i]);
            term.store(e + l * block_pixels + i * P::lanes);
            sum[i] = sum[i] + term;
          }
        alignas(64) float factor[block_pixels] = {};
        for (int i = 0; i < packs; ++i) sum[i].store(factor + i * P::lanes);
        for (int64_t i = 0; i < count; ++i) {
          const bool held =
              (problem.mask && !problem.mask[first + i]) || (problem.clamp && problem.clamp[first + i] >= 0);
          factor[i] = held ? 0.f : 1.f / factor[i];
        }
        for (int64_t i = count; i < block_pixels; ++i) factor[i] = 0.f;
        for (int i = 0; i < packs; ++i) {
          const auto some = P::Lanes::first(count - i * P::lanes);
          most[i].store(top + first + i * P::lanes, some);
          sum[i] = P::load(factor + i * P::lanes);
          sum[i].store(scale + first + i * P::lanes, some);
        }
        for (int64_t l = 0; seen && l < labels; ++l) {
          P highest = P::zero();
          for (int i = 0; i < packs; ++i)
            highest = P::max(highest, P::load(e + l * block_pixels + i * P::lanes) * sum[i]);
          watch.see(worker, l * P::lanes, highest);
        }
      },
      step);
  for (int64_t l = 0; seen && l < labels; ++l) {
    float most = 0.f;
    for (int64_t i = 0; i < P::lanes; ++i) {
      const float own = watch.highest(workers, l * P::lanes + i);
      most = own > most ? own : most;
    }
    seen->has[l] = most >= problem.in_play;
  }
  return finite.load();
}

// The labels that are known at any pixel, where their marginal is 1.
inline LabelSet known_labels(const Problem& problem) {
  LabelSet known;
  for (int64_t i = 0; problem.clamp && i < problem.total(); ++i) {
    const int32_t label = problem.clamp[i];
    if (label >= 0 && label < problem.labels && (!problem.mask || problem.mask[i])) known.has[label] = 1;
  }
  return known;
}

inline bool is_diagonal(const Problem& problem) {
  for (int m = 0; m < problem.kernel_count; ++m)
    for (int64_t r = 0; r < problem.labels; ++r)
      for (int64_t c = 0; c < problem.labels; ++c)
        if (r != c && problem.transform[(m * problem.labels + r) * problem.labels + c] != 0.f) return false;
  return true;
}

}  // namespace crfrnn::CRFRNN_ISA
