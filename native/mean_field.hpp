// SPDX-License-Identifier: MIT
// All T iterations of mean field in one call, over rows of labels,
//   Q = softmax(x);  x <- (1 - η) x + η (U + Σ_m A_m K_m Q),  A_m = -μ W_m,  K_m = post · (filter · pre)
// and the derivative. Symbols as in Zheng et al. 2015, Algorithm 1.
#pragma once

#include <cstdint>

#include "lattice.hpp"

namespace crfrnn {

// One kernel: a lattice, or a separable Gaussian over the grid. Scales are per pixel, in the pixels' own
// order, or null.
struct Kernel {
  bool is_lattice = false;
  Lattice lattice;
  const float* weights = nullptr;  // of the lattice, barycentric
  double theta[3] = {1, 1, 1};     // of the separable kernel, in the order of the grid's axes
  const float* pre = nullptr;
  const float* post = nullptr;
};

struct Problem {
  int64_t batch = 0, labels = 0, pixels = 0;  // pixels: per picture
  int64_t grid[3] = {1, 1, 1};                // axes of the grid, outermost first, left-padded with 1
  const Kernel* kernels = nullptr;
  int kernel_count = 0;
  const float* transform = nullptr;  // [kernel_count][labels][labels], A_m
  const uint8_t* mask = nullptr;     // [batch * pixels], nonzero = valid, or null
  const int32_t* clamp = nullptr;    // [batch * pixels], -1 = free, or null
  int iterations = 0;
  float damping = 1;  // η
  float in_play = 0;  // δ: a label whose marginal is below δ at every pixel sends no messages
  int threads = 1;

  int64_t total() const { return batch * pixels; }
  // Size of the rows of all pixels: `labels` numbers each, plus padding for packs that read past the end.
  static constexpr int64_t room = 32;
  int64_t plane() const { return total() * labels + room; }
  // Number of labels rounded up to whole packs of 16.
  int64_t width() const { return (labels + 15) / 16 * 16; }
};

// Results of the backward pass; arrays that are not requested are null.
struct KernelGradient {
  float* weights = nullptr;  // [points][dim + 1]
  double* theta = nullptr;   // [3]
  float* pre = nullptr;      // [batch * pixels]
  float* post = nullptr;
};

// What a forward pass writes: the logits, planes [batch][labels][pixels], or only the label of the largest
// logit of each pixel (the lowest of equals), [batch][pixels]. The other is null.
struct Result {
  float* logits = nullptr;
  int16_t* labels = nullptr;
};

struct MeanFieldTable {
  // unary and initial (or null): planes [batch][labels][pixels]. marginals: [iterations][plane()],
  // the rows of Q_t stored for the backward pass, or null. Returns false if unary or initial contains NaN or
  // infinity.
  bool (*forward)(const Problem& problem, const float* unary, const float* initial, const Result& result,
                  float* marginals);
  void (*backward)(const Problem& problem, const float* grad_logits, const float* marginals,
                   float* grad_unary, float* grad_initial, float* grad_transform,
                   KernelGradient* grad_kernels);
  // One iteration over rows [total][labels] in the pixels' own order, for callers that need Q after every
  // iteration. Writes to `out` the x computed from the marginals, or softmax(x), in which case `out` may
  // alias `marginals`. All kernels must be lattices; mask and clamp are ignored.
  void (*update)(const Problem& problem, const float* unary, const float* marginals, bool normalize,
                 float* out);
};

}  // namespace crfrnn
