// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// All iterations; the finished x is left in `state`. What they need in between is given back before the planes are written.
template <int NP>
void iterate(const Problem& problem, const Order& order, const float* u, float* state, float* kept) {
  const int64_t width = problem.width(), total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(width);
  const Messages messages(problem, order);
  const bool fused = NP != 0 && order.lattice;
  const Others others(problem, order, fused);
  const Transforms transforms(problem, false);
  const bool damped = problem.damping != 1.f;
  const int64_t planes = kept ? problem.iterations : 1;
  const Buffer marginal_rows(kept ? 0 : static_cast<size_t>(problem.plane()) * sizeof(float)),
      places(sizeof(float*) * static_cast<size_t>(problem.kernel_count));
  float* q = kept ? kept : marginal_rows.as<float>();
  for (int64_t t = 0; t < planes; ++t)
    for (int64_t i = total * labels; i < problem.plane(); ++i) q[t * problem.plane() + i] = 0.f;
  parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      P x[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) x[b] = P::load(state + row * packs.width() + b * P::lanes);
      write_marginals(problem, order.pixel[row], x, packs, q + row * labels);
    }
  });

  const float** at = places.as<const float*>();
  const P step = P::set(problem.damping), stay = P::set(1.f - problem.damping);
  for (int t = 0; t < problem.iterations; ++t) {
    pass_messages<NP>(problem, order, messages, others, fused, false, RowsView{q, labels}, at);
    const bool last = t + 1 == problem.iterations;
    float* next = kept ? kept + (t + 1) * problem.plane() : q;
    const float* post = fused ? problem.kernels[order.first].post : nullptr;
    each_row<NP>(problem, order, messages, fused, false, post, [&](int64_t row, const P* message, int) {
      const int64_t pixel = order.pixel[row];
      prefetch_messages(problem, order, at, row, packs);
      P x[Packs<NP>::capacity], other[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) x[b] = P::load(u + row * packs.width() + b * P::lanes);
      for (int m = 0; m < problem.kernel_count; ++m) {
        if (!at[m]) {
          transforms[m].add<NP>(message, packs, labels, x);
          continue;
        }
        load_message(at[m], pixel, problem.kernels[m].post, packs, other);
        transforms[m].add<NP>(other, packs, labels, x);
      }
      if (damped)
        for (int b = 0; b < packs; ++b)
          x[b] = P::fma(stay, P::load(state + row * packs.width() + b * P::lanes), step * x[b]);
      if (last || damped)
        if (!problem.mask || problem.mask[pixel])
          for (int b = 0; b < packs; ++b) x[b].store(state + row * packs.width() + b * P::lanes);
      if (!last) write_marginals(problem, pixel, x, packs, next + row * labels);
    });
    q = next;
  }
}

template <int NP>
bool forward(const Problem& problem, const float* unary, const float* initial, float* logits, float* kept) {
  const Order order(problem);
  const int64_t width = problem.width(), total = problem.total();
  const bool damped = problem.damping != 1.f;
  const size_t bytes = static_cast<size_t>(total * width) * sizeof(float);
  const Buffer unary_rows(bytes), state_rows(damped || initial ? bytes : 0);
  float* u = unary_rows.as<float>();
  float* state = damped || initial ? state_rows.as<float>() : u;
  if (!planes_to_rows(problem, order, unary, minus_infinity, u)) return false;
  if (initial && !planes_to_rows(problem, order, initial, minus_infinity, state)) return false;
  if (!initial && damped)
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * width; i < end * width; i += P::lanes) P::load(u + i).store(state + i);
    });
  if (problem.iterations > 0) iterate<NP>(problem, order, u, state, kept);
  rows_to_planes(problem, order, state, logits);
  return true;
}

bool forward_any(const Problem& problem, const float* unary, const float* initial, float* logits, float* marginals) {
  bool finite = true;
  with_packs(problem, [&]<int NP>() { finite = forward<NP>(problem, unary, initial, logits, marginals); });
  return finite;
}

}  // namespace

void mean_field_backward(const Problem&, const float*, const float*, float*, float*, float*, KernelGradient*);

const MeanFieldTable& mean_field_table() {
  static const MeanFieldTable table{&forward_any, &mean_field_backward};
  return table;
}

}  // namespace crfrnn::CRFRNN_ISA
