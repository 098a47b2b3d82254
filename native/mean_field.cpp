// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// x = U + a_lattice ∘ message + a_other ∘ message, Q = softmax(x).
template <int NP>
struct PlainForward : Plain<NP> {
  const float* u;
  float *state, *next;

  PlainForward(const Plain<NP>& plain, const float* u_, float* state_, float* next_) : Plain<NP>(plain), u(u_), state(state_), next(next_) {}

  CRFRNN_INLINE void operator()(int64_t row, const P* message, int) const {
    const Packs<NP>& packs = this->packs;
    const int64_t at = row * packs.labels;
    this->ask(row, u);
    P x[Packs<NP>::capacity], sent[Packs<NP>::capacity];
    packs.load_logits(u + at, x);
    this->load_other(row, sent);
    for (int b = 0; b < packs; ++b) {
      x[b] = P::fma(this->weight[b], message[b], x[b]);
      x[b] = P::fma(this->other_weight[b], sent[b], x[b]);
    }
    if (next)
      softmax(x, packs, next + at);
    else
      packs.store(x, state + at);
  }
};

// The same in any problem: any kernels and transforms, damping, masked and known pixels.
template <int NP>
struct AnyForward {
  const Problem& problem;
  const Transforms& transforms;
  Inbox<NP> inbox;
  const float* u;
  float *state, *next;

  CRFRNN_NOINLINE void operator()(int64_t row, const P* sliced, int) const {
    const Packs<NP> packs = inbox.packs;
    const float damping = problem.damping;
    const int64_t pixel = inbox.pixel_of[row], at = row * packs.labels;
    inbox.ask(row);
    P x[Packs<NP>::capacity], other[Packs<NP>::capacity];
    packs.load_logits(u + at, x);
    for (int64_t m = 0; m < inbox.kernels; ++m) transforms[m].template add<NP>(inbox.message(m, row, pixel, sliced, other), packs, x);
    if (damping != 1.f) {
      const P step = P::set(damping), stay = P::set(1.f - damping);
      packs.load(state + at, other);
      for (int b = 0; b < packs; ++b) x[b] = P::fma(stay, other[b], step * x[b]);
    }
    if ((!next || damping != 1.f) && (!problem.mask || problem.mask[pixel])) packs.store(x, state + at);
    if (next) write_marginals(problem, pixel, x, packs, next + at);
  }
};

// All iterations; the finished x is left in `state`. What they need in between is given back before the planes are written.
template <int NP>
void iterate(const Problem& problem, const Order& order, const float* u, float* state, float* kept) {
  const int64_t total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(problem);
  const Messages messages(problem, order);
  const Leading<NP> leading(messages, false, true);
  const Others others(problem, problem.kernel_count - leading.sliced);
  const Inbox<NP> inbox(problem, order, others, leading.closing);
  const Transforms transforms(problem, false);
  const bool plain = Plain<NP>::fits(problem, leading, transforms);
  const int64_t planes = kept ? problem.iterations : 1;
  const Buffer marginal_rows(kept ? 0 : static_cast<size_t>(problem.plane()) * sizeof(float));
  float* q = kept ? kept : marginal_rows.as<float>();
  for (int64_t t = 0; t < planes; ++t) clear_pad(problem, q + t * problem.plane());
  parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      P x[Packs<NP>::capacity];
      packs.load_logits(state + row * labels, x);
      write_marginals(problem, order.pixel[row], x, packs, q + row * labels);
    }
  });
  leading.begin(q);

  for (int t = 0; t < problem.iterations; ++t) {
    others.pass(leading, q);
    float* next = t + 1 == problem.iterations ? nullptr : (kept ? kept + (t + 1) * problem.plane() : q);
    const AnyForward<NP> any{problem, transforms, inbox, u, state, next};
    leading.turn(next, plain, PlainForward<NP>(Plain<NP>(inbox, transforms, order.first, plain), u, state, next), any);
    q = next;
  }
}

template <int NP>
bool forward(const Problem& problem, const float* unary, const float* initial, float* logits, float* kept) {
  const Order order(problem);
  const bool damped = problem.damping != 1.f;
  const size_t bytes = static_cast<size_t>(problem.plane()) * sizeof(float);
  const Buffer unary_rows(bytes), state_rows(damped || initial ? bytes : 0);
  float* u = unary_rows.as<float>();
  float* state = damped || initial ? state_rows.as<float>() : u;
  if (!planes_to_rows(problem, order, unary, u)) return false;
  if (initial && !planes_to_rows(problem, order, initial, state)) return false;
  if (!initial && damped) {
    clear_pad(problem, state);
    each_pack(problem, [&](int64_t i) { P::load(u + i).store(state + i); });
  }
  if (problem.iterations > 0) iterate<NP>(problem, order, u, state, kept);
  rows_to_planes(problem, order, state, logits);
  return true;
}

bool forward_any(const Problem& problem, const float* unary, const float* initial, float* logits, float* marginals) {
  bool finite = true;
  with_packs(problem, [&]<int NP>() { finite = forward<NP>(problem, unary, initial, logits, marginals); });
  return finite;
}

template <int NP>
void update(const Problem& problem, const float* u, const float* marginals, bool normalize, float* out) {
  const Order order(problem, true);
  const Packs<NP> packs(problem);
  const Messages messages(problem, order);
  const Leading<NP> leading(messages, false, false);
  const Others others(problem, problem.kernel_count);
  const Inbox<NP> inbox(problem, order, others, leading.closing);
  const Transforms transforms(problem, false);
  others.pass(leading, marginals);
  leading.rest([=, &transforms](int64_t row, const P* none, int) {
    P x[Packs<NP>::capacity], sent[Packs<NP>::capacity];
    packs.load_logits(u + row * packs.labels, x);
    for (int64_t m = 0; m < inbox.kernels; ++m) transforms[m].template add<NP>(inbox.message(m, row, row, none, sent), packs, x);
    if (normalize)
      softmax(x, packs, out + row * packs.labels);
    else
      packs.store(x, out + row * packs.labels);
  });
}

void update_any(const Problem& problem, const float* unary, const float* marginals, bool normalize, float* out) {
  with_packs(problem, [&]<int NP>() { update<NP>(problem, unary, marginals, normalize, out); });
}

}  // namespace

void mean_field_backward(const Problem&, const float*, const float*, float*, float*, float*, KernelGradient*);

const MeanFieldTable& mean_field_table() {
  static const MeanFieldTable table{&forward_any, &mean_field_backward, &update_any};
  return table;
}

}  // namespace crfrnn::CRFRNN_ISA
