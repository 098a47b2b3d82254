// SPDX-License-Identifier: MIT
// The work of one iteration on the rows of all pixels if only some labels are in play.
#pragma once

#include "columns.hpp"
#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {

// If all A_m are diagonal and there is no damping, the logit of a label out of play equals its unary. The
// contribution of these labels to the softmax is then one number per pixel, and rows hold only the columns.
struct Share {
  float top;    // the largest logit in the pixel's unary
  float rest;   // Σ exp(U_l - top) over the labels without a column
  float most;   // the largest term of that sum
  float scale;  // of the last softmax: the marginal of such a label is exp(U_l - top) scale
};
static_assert(sizeof(Share) == 4 * sizeof(float));  // read as rows of four numbers

// The problem reduced to the columns: their part of A_m, with zeros for labels that send no messages.
struct Narrow {
  Problem problem;
  Buffer transform;

  Narrow(const Problem& whole, const Columns& columns)
      : problem(whole),
        transform(static_cast<size_t>(whole.kernel_count * columns.count * columns.count) * sizeof(float)) {
    problem.labels = columns.count;
    problem.transform = transform.as<float>();
    choose(whole, columns);
  }
  void choose(const Problem& whole, const Columns& columns) {
    float* to = transform.as<float>();
    for (int m = 0; m < whole.kernel_count; ++m)
      for (int64_t r = 0; r < columns.count; ++r)
        for (int64_t c = 0; c < columns.count; ++c) {
          const bool any = columns.label[r] >= 0 && columns.sends[c];
          const float* from = whole.transform + (m * whole.labels + columns.label[r]) * whole.labels;
          *to++ = any ? from[columns.label[c]] : 0.f;
        }
  }
};

// Writes the known rows in columns: one label, or zeros where the mask excludes the pixel.
inline void write_known(const Problem& problem, int64_t pixel, const Columns& columns, float* out) {
  const bool valid = !problem.mask || problem.mask[pixel];
  for (int64_t c = 0; c < columns.count; ++c)
    out[c] = valid && problem.clamp && problem.clamp[pixel] == columns.label[c] ? 1.f : 0.f;
}

// x = U + Σ_m A_m h_m in the columns; Q = softmax(x), including the share of the other labels.
template <int NP, bool common>
struct LeanForward {
  const Problem &problem, &whole;  // the problem of the columns; the problem of all labels
  const Columns& columns;
  const Watch& watch;
  Inbox<NP, common> inbox;
  const float* unary;  // planes
  float *u, *next;     // next: Q of the next iteration, null in the last one
  Share* shares;       // null if every label has a column

  CRFRNN_INLINE void operator()(int64_t row, const P* sliced, int part) const {
    const Packs<NP>& packs = inbox.packs;
    const int64_t pixel = inbox.pixel_of[row], at = row * packs.step();
    inbox.ask(row, u);
    if (is_held<common>(problem, pixel)) {
      if (next) write_known(problem, pixel, columns, next + at);
      if (problem.mask && !problem.mask[pixel]) return;
    }
    P x[Packs<NP>::capacity];
    packs.load_logits(u + at, x);
    inbox.template take<false>(row, sliced, x, [](int64_t, const P*) CRFRNN_INLINE_LAMBDA {});
    if (!next)
      packs.store(x, u + at);
    else if (narrow)
      packs.store(x, next + at);
    else if (!is_held<common>(problem, pixel))
      shares ? write_shared(row, pixel, x, part) : write_whole(row, x, part);
  }

  // Narrow rows in the common case: the walk writes x of several rows at a time, the parts of a pack, and
  // `finish` replaces the x of a slab by Q. In one loop, the softmax would wait for the slice of each pack.
  static constexpr bool narrow = NP < 0 && common;

  CRFRNN_INLINE void parts(int64_t row, P sliced, int) const requires(narrow) {
    inbox.ask_parts(row);
    float* const own = u + row * -NP;
    inbox.take_parts(row, sliced, P::load(own)).store(next ? next + row * -NP : own);
  }

  void finish(int64_t begin, int64_t end, int part) const requires(narrow) {
    if (!next) return;
    constexpr int together = Packs<NP>::together;
    P highest = P::zero();
    int64_t row = begin;
    for (; row + together <= end; row += together)
      if (!(shares ? normalise<true>(row, highest, part) : normalise<false>(row, highest, part)))
        for (int g = 0; g < together; ++g) write_alone(row + g, part);
    for (; row < end; ++row) write_alone(row, part);
    watch.see(part, 0, highest);
  }

  // Computes Q of `together` rows; returns false, and writes nothing, if a sum is far from 1.
  template <bool shared>
  CRFRNN_INLINE bool normalise(int64_t row, P& highest, int part) const requires(narrow) {
    constexpr int W = -NP;
    float* const q = next + row * W;
    float* const share = shared ? &shares[row].top : nullptr;
    P e = P::load(q);
    if constexpr (shared) e = e - P::template field<W, 0>(share);
    e = exp(e);
    P sum = e.template part_sums<W>();
    if constexpr (shared) sum = sum + P::template field<W, 1>(share);
    if (!P::all_less(P::set(1e-10f), sum) || !P::all_less(sum, P::set(1e30f))) return false;
    const P scale = P::set(1.f) / sum, marginals = e * scale;
    highest = P::max(highest, marginals);
    marginals.store(q);
    if constexpr (shared) {
      const bool enters = !P::all_less(P::template field<W, 2>(share) * scale, P::set(whole.in_play));
      scale.template store_field<W, 3>(share);
      for (int g = 0; enters && g < Packs<NP>::together; ++g)
        if (shares[row + g].most * shares[row + g].scale >= whole.in_play)
          note_entering(inbox.pixel_of[row + g], shares[row + g], part);
    }
    return true;
  }

  CRFRNN_NOINLINE void write_alone(int64_t row, int part) const requires(narrow) {
    P x;
    inbox.packs.load_logits(next + row * -NP, &x);
    shares ? write_shared(row, inbox.pixel_of[row], &x, part) : write_whole(row, &x, part);
  }

  CRFRNN_INLINE void write_whole(int64_t row, const P* x, int part) const {
    const Packs<NP>& packs = inbox.packs;
    P e[Packs<NP>::capacity];
    softmax_packs(x, packs, e);
    for (int b = 0; b < packs; ++b) watch.see(part, b * P::lanes, e[b]);
    packs.store(e, next + row * packs.step());
  }

  CRFRNN_INLINE void write_shared(int64_t row, int64_t pixel, const P* x, int part) const {
    const Packs<NP>& packs = inbox.packs;
    Share& share = shares[row];
    const P top = P::set(share.top);
    P e[Packs<NP>::capacity], total = P::zero();
    for (int b = 0; b < packs; ++b) {
      e[b] = exp(x[b] - top);
      total = total + e[b];
    }
    float sum = total.sum() + share.rest, scale;
    if (sum > 1e-10f && sum < 1e30f) {
      scale = 1.f / sum;
      share.scale = scale;
    } else {
      scale = far_softmax(x, e, share);
    }
    const P factor = P::set(scale);
    for (int b = 0; b < packs; ++b) {
      e[b] = e[b] * factor;
      watch.see(part, b * P::lanes, e[b]);
    }
    packs.store(e, next + row * packs.step());
    if (share.most * share.scale >= whole.in_play) note_entering(pixel, share, part);
  }

  // If the columns are now far from the unary, their largest logit has to be taken into account. Rare.
  CRFRNN_NOINLINE float far_softmax(const P* x, P* e, Share& share) const {
    const Packs<NP>& packs = inbox.packs;
    P most = x[0];
    for (int b = 1; b < packs; ++b) most = P::max(most, x[b]);
    float top = most.most();
    if (share.rest > 0.f && share.top > top) top = share.top;
    const float shift = exponential(share.top - top);  // of the other labels; infinite only if none
    P total = P::zero();
    for (int b = 0; b < packs; ++b) {
      e[b] = exp(x[b] - P::set(top));
      total = total + e[b];
    }
    const float sum = total.sum() + (share.rest > 0.f ? share.rest * shift : 0.f);
    share.scale = share.rest > 0.f ? shift / sum : 0.f;
    return 1.f / sum;
  }
  static float exponential(float x) {
    alignas(64) float lane[P::lanes];
    exp(P::set(x)).store(lane);
    return lane[0];
  }

  CRFRNN_NOINLINE void note_entering(int64_t pixel, const Share& share, int part) const {
    const int64_t n = whole.pixels, labels = whole.labels;
    const float* from = unary + pixel / n * labels * n + pixel % n;
    uint8_t* entered = watch.entered(part);
    for (int64_t l = 0; l < labels; l += P::lanes) {
      alignas(64) float lane[P::lanes] = {};
      for (int64_t i = 0; i < P::lanes && l + i < labels; ++i) lane[i] = from[(l + i) * n];
      (exp(P::load(lane) - P::set(share.top)) * P::set(share.scale)).store(lane);
      for (int64_t i = 0; i < P::lanes && l + i < labels; ++i)
        if (columns.column[l + i] < 0 && lane[i] >= whole.in_play) entered[l + i] = 1;
    }
  }
};

// Computes x in rows of all labels, for transforms that mix labels or for damping; messages are in columns.
// The walk overwrites the marginals, which have already been sent, with the messages of the leading lattice;
// `finish` does the rest.
template <int NP>
struct WideForward {
  const Problem& whole;
  const Columns& columns;
  const Watch& watch;
  Inbox<NP, false> inbox;
  const float *transforms, *u;  // transforms: [kernels][columns] columns of A_m, as packs
  float *state, *rows;
  bool goes_on;

  CRFRNN_INLINE void operator()(int64_t row, const P* sliced, int) const {
    inbox.packs.store(sliced, rows + row * inbox.packs.labels);
  }

  void finish(int64_t begin, int64_t end, int part) const {
    with_packs(whole, [&]<int NW>() { finish_rows(Packs<NW>(whole), begin, end, part); });
  }

  template <int NW>
  void finish_rows(const Packs<NW> wide, int64_t begin, int64_t end, int part) const {
    constexpr int capacity = Packs<NW>::capacity;
    const int64_t count = columns.count, width = wide.width();
    const P step = P::set(whole.damping), stay = P::set(1.f - whole.damping);
    P highest[capacity];
    for (int b = 0; b < wide; ++b) highest[b] = P::zero();
    for (int64_t row = begin; row < end; ++row) {
      inbox.ask(row, u);
      const int64_t pixel = inbox.pixel_of[row], at = row * wide.labels;
      float* const own = rows + row * count;
      P x[capacity], before[capacity];
      wide.load_logits(u + at, x);
      const float* a = transforms;
      for (int64_t m = 0; m < inbox.kernels; ++m) {
        const float* const plane = inbox.rows[m];
        const float* const h = plane ? plane + pixel * count : own;
        const float scale = plane && inbox.scales[m] ? inbox.scales[m][row] : 1.f;
        for (int64_t c = 0; c < count; ++c, a += width) {
          const P message = P::set(h[c] * scale);
          for (int b = 0; b < wide; ++b) x[b] = P::fma(P::load(a + b * P::lanes), message, x[b]);
        }
      }
      if (whole.damping != 1.f) {
        wide.load(state + at, before);
        for (int b = 0; b < wide; ++b) x[b] = P::fma(stay, before[b], step * x[b]);
      }
      if (!whole.mask || whole.mask[pixel]) wide.store(x, state + at);
      if (!goes_on) continue;
      if (is_held<false>(whole, pixel)) {
        write_known(whole, pixel, columns, own);
        continue;
      }
      alignas(64) float q[capacity * P::lanes];
      P e[capacity];
      softmax_packs(x, wide, e);
      for (int b = 0; b < wide; ++b) {
        highest[b] = P::max(highest[b], e[b]);
        e[b].store(q + b * P::lanes);
      }
      for (int64_t c = 0; c < count; ++c) own[c] = q[columns.label[c]];
    }
    for (int b = 0; b < wide; ++b) watch.see(part, b * P::lanes, highest[b]);
  }
};

// Placeholder for a body that a walk does not use.
struct Unused {
  void operator()(int64_t, const P*, int) const {}
};

}  // namespace crfrnn::CRFRNN_ISA
