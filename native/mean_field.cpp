// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include "in_play.hpp"
#include "likeliest.hpp"
#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// x = U + Σ_m A_m h_m, with damping; Q = softmax(x).
template <int NP, bool common>
struct Forward {
  const Problem& problem;
  Inbox<NP, common> inbox;
  const float* u;
  float *state, *next;  // next: Q of the next iteration, null in the last one

  CRFRNN_INLINE void operator()(int64_t row, const P* sliced, int) const {
    const Packs<NP>& packs = inbox.packs;
    const int64_t pixel = inbox.pixel_of[row], at = row * packs.labels;
    const bool damped = !common && problem.damping != 1.f;
    inbox.ask(row, u);
    P x[Packs<NP>::capacity];
    packs.load_logits(u + at, x);
    inbox.template take<false>(row, sliced, x, [](int64_t, const P*) CRFRNN_INLINE_LAMBDA {});
    if (damped) {
      const P step = P::set(problem.damping), stay = P::set(1.f - problem.damping);
      P before[Packs<NP>::capacity];
      packs.load(state + at, before);
      for (int b = 0; b < packs; ++b) x[b] = P::fma(stay, before[b], step * x[b]);
    }
    if ((!next || damped) && (common || !problem.mask || problem.mask[pixel])) packs.store(x, state + at);
    if (next) write_marginals<NP, common>(problem, pixel, x, packs, next + at);
  }
};

// Runs all iterations; the final x is in `state`. Temporary memory is freed before the planes are written.
template <int NP>
void iterate(const Problem& problem, const Order& order, const float* u, float* state, float* kept) {
  const int64_t total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(problem);
  const Messages messages(problem, order);
  const Leading<NP> leading(messages, false, true);
  const Others others(problem, problem.kernel_count - leading.sliced);
  const Transforms transforms(problem, false);
  const Inbox<NP, true> common(leading, others, transforms);
  const Inbox<NP, false> any(leading, others, transforms);
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
    leading.turn(next, is_common(problem, leading, transforms),
                 Forward<NP, true>{problem, common, u, state, next},
                 Forward<NP, false>{problem, any, u, state, next});
    q = next;
  }
}

template <int NP>
bool forward(const Problem& problem, const float* unary, const float* initial, const Result& result,
             float* kept) {
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
  write_rows(problem, order, state, result);
  return true;
}

bool forward_any(const Problem& problem, const float* unary, const float* initial, const Result& result,
                 float* marginals) {
  if (problem.in_play > 0 && problem.iterations > 0 && !marginals)
    return forward_in_play(problem, unary, initial, result);
  bool finite = true;
  with_packs(problem, [&]<int NP>() { finite = forward<NP>(problem, unary, initial, result, marginals); });
  return finite;
}

template <int NP>
void update(const Problem& problem, const float* u, const float* marginals, bool normalize, float* out) {
  const Order order(problem, true);
  const Packs<NP> packs(problem);
  const Messages messages(problem, order);
  const Leading<NP> leading(messages, false, false);
  const Others others(problem, problem.kernel_count);
  const Transforms transforms(problem, false);
  const Inbox<NP, false> inbox(leading, others, transforms);
  others.pass(leading, marginals);
  leading.rest([=](int64_t row, const P* none, int) {
    P x[Packs<NP>::capacity];
    packs.load_logits(u + row * packs.labels, x);
    inbox.template take<false>(row, none, x, [](int64_t, const P*) {});
    if (normalize)
      softmax(x, packs, out + row * packs.labels);
    else
      packs.store(x, out + row * packs.labels);
  });
}

void update_any(const Problem& problem, const float* unary, const float* marginals, bool normalize,
                float* out) {
  with_packs(problem, [&]<int NP>() { update<NP>(problem, unary, marginals, normalize, out); });
}

}  // namespace

void mean_field_backward(const Problem&, const float*, const float*, float*, float*, float*, KernelGradient*);

const MeanFieldTable& mean_field_table() {
  static const MeanFieldTable table{&forward_any, &mean_field_backward, &update_any};
  return table;
}

}  // namespace crfrnn::CRFRNN_ISA
