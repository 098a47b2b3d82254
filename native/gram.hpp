// SPDX-License-Identifier: MIT
// Σ over pixels of h qᵀ: the gradient of A_m, from the filtered gradient h and the marginals q.
#pragma once

#include "buffer.hpp"
#include "rows.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

// C += hᵀ q over a few rows at a time, so that the sums stay in registers.
template <int NP>
struct Gram {
  using P = Pack<float>;
  static constexpr int batch = 32;
  int64_t labels, width;
  Packs<NP> packs;

  void add(const float* h, const float* q, int count, float* sum) const {
    constexpr int block = 6;
    for (int64_t l = 0; l < labels; l += block) {
      const int some = static_cast<int>(labels - l < block ? labels - l : block);
      for (int c = 0; c < packs; c += 2) {
        const int pair = packs - c < 2 ? 1 : 2;
        P acc[block][2];
        for (int i = 0; i < block; ++i)
          for (int b = 0; b < 2; ++b) acc[i][b] = P::zero();
        for (int r = 0; r < count; ++r) {
          const P first = P::load(q + r * width + c * P::lanes);
          const P second = pair == 2 ? P::load(q + r * width + (c + 1) * P::lanes) : P::zero();
          for (int i = 0; i < block; ++i) {
            const P hi = P::set(i < some ? h[r * width + l + i] : 0.f);
            acc[i][0] = P::fma(hi, first, acc[i][0]);
            acc[i][1] = P::fma(hi, second, acc[i][1]);
          }
        }
        for (int i = 0; i < some; ++i)
          for (int b = 0; b < pair; ++b) {
            float* to = sum + (l + i) * width + (c + b) * P::lanes;
            (P::load(to) + acc[i][b]).store(to);
          }
      }
    }
  }
};

// Products hᵀ q of rows, gathered a few rows at a time. Each fixed part has its own sum, so that the result
// does not depend on the number of threads.
template <int NP>
struct Grams {
  static constexpr int batch = Gram<NP>::batch;
  int64_t kernels, width, matrix;
  Gram<NP> products;
  Buffer sums, messages, marginals, counts;

  Grams(const Problem& problem, const Packs<NP>& packs)
      : kernels(problem.kernel_count), width(packs.width()), matrix(problem.labels * width),
        products{problem.labels, width, packs},
        sums(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * matrix)),
        messages(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * batch * width)),
        marginals(sizeof(float) * static_cast<size_t>(fixed_parts * batch * width)),
        counts(64 * fixed_parts) {
    for (int64_t i = 0; i < fixed_parts * kernels * matrix; ++i) sums.as<float>()[i] = 0.f;
    for (int64_t i = 0; i < fixed_parts; ++i) count(i) = 0;
  }

  CRFRNN_INLINE int& count(int64_t part) const { return counts.as<int>()[part * 16]; }  // one cache line each
  CRFRNN_INLINE float* message(int64_t part, int64_t m) const {
    return messages.as<float>() + ((part * kernels + m) * batch + count(part)) * width;
  }
  CRFRNN_INLINE float* marginal(int64_t part) const {
    return marginals.as<float>() + (part * batch + count(part)) * width;
  }
  CRFRNN_INLINE void next(int64_t part) const {
    if (++count(part) == batch) flush(part);
  }
  CRFRNN_NOINLINE void flush(int64_t part) const {
    for (int64_t m = 0; m < kernels; ++m)
      products.add(messages.as<float>() + (part * kernels + m) * batch * width,
                   marginals.as<float>() + part * batch * width, count(part),
                   sums.as<float>() + (part * kernels + m) * matrix);
    count(part) = 0;
  }
};

}  // namespace crfrnn::CRFRNN_ISA
