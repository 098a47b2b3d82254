// SPDX-License-Identifier: MIT
// The transform of the labels of one pixel: A_m = -μ W_m.
#pragma once

#include <new>

#include "rows.hpp"

namespace crfrnn::CRFRNN_ISA {

// A_m for the rows: the diagonal if it is diagonal, otherwise its columns, each stored as one row of labels.
struct Transform {
  using P = Pack<float>;
  bool diagonal = true;
  Buffer columns;

  Transform(const Problem& problem, int m, bool transposed)
      : columns(static_cast<size_t>(problem.labels * problem.width()) * sizeof(float)) {
    const int64_t labels = problem.labels, width = problem.width();
    const float* a = problem.transform + m * labels * labels;
    for (int64_t r = 0; r < labels; ++r)
      for (int64_t c = 0; c < labels; ++c) diagonal = diagonal && (r == c || a[r * labels + c] == 0.f);
    float* out = columns.as<float>();
    for (int64_t i = 0; i < labels * width; ++i) out[i] = 0.f;
    for (int64_t r = 0; r < labels; ++r)
      for (int64_t c = 0; c < labels; ++c) {
        const float value = transposed ? a[c * labels + r] : a[r * labels + c];
        if (diagonal && r == c) out[r] = value;
        if (!diagonal) out[c * width + r] = value;
      }
  }

  // x += A · message.
  template <int NP>
  CRFRNN_INLINE void add(const P* message, const Packs<NP>& packs, P* x) const {
    const float* a = columns.as<float>();
    if (diagonal) {
      for (int b = 0; b < packs; ++b) x[b] = P::fma(P::load(a + b * P::lanes), message[b], x[b]);
      return;
    }
    multiply<NP>(message, packs, x);
  }

  // A full matrix, column by column; single labels of the message are read back from memory. Not inlined, to
  // keep the common diagonal case short.
  template <int NP>
  void multiply(const P* message, const Packs<NP>& packs, P* x) const {
    const float* a = columns.as<float>();
    alignas(64) float single[Packs<NP>::capacity * P::lanes];
    for (int b = 0; b < packs; ++b) message[b].store(single + b * P::lanes);
    for (int64_t l = 0; l < packs.labels; ++l, a += packs.width()) {
      const P one = P::set(single[l]);
      for (int b = 0; b < packs; ++b) x[b] = P::fma(P::load(a + b * P::lanes), one, x[b]);
    }
  }
};

// Owns the transforms of all kernels. No standard containers, because this file must not compile any.
struct Transforms {
  Buffer memory;
  int count;
  Transforms(const Problem& problem, bool transposed)
      : Transforms(static_cast<size_t>(problem.kernel_count)) {
    for (; count < problem.kernel_count; ++count)
      new (memory.as<Transform>() + count) Transform(problem, count, transposed);
  }
  ~Transforms() {
    for (int m = 0; m < count; ++m) memory.as<Transform>()[m].~Transform();
  }
  const Transform& operator[](int64_t m) const { return memory.as<Transform>()[m]; }

 private:
  explicit Transforms(size_t most) : memory(sizeof(Transform) * most), count(0) {}
};

}  // namespace crfrnn::CRFRNN_ISA
