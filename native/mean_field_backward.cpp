// SPDX-License-Identifier: MIT
// The derivative of mean_field.cpp. K_m acts on pixels and A_m on labels, so they commute: Kᵀg is computed
// once and used for both the gradient of the marginals (Aᵀ Kᵀ g) and that of A (Kᵀg · Qᵀ).
#include "gram.hpp"
#include "mean_field.hpp"
#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// The gradients of K_m itself that one iteration adds: barycentric weights, scales, bandwidths.
template <int NP>
struct KernelDerivative {
  const Messages& messages;
  const Kernel& kernel;
  const Transform &a, &transposed;  // A_m and its transpose
  const float *q, *g;
  KernelGradient& out;
  const Problem& problem = messages.problem;
  const Order& order = messages.order;
  Packs<NP> packs{problem};

  // reversed: the messages of Kᵀ g in the pixels' order. spread_ready: the rows of Kᵀ g of a lattice are
  // already in messages.spread.
  void add(const float* reversed, bool spread_ready) const {
    const bool scales = out.pre || out.post;
    if (kernel.is_lattice && (out.weights || scales)) of_lattice(spread_ready);
    if (kernel.is_lattice) return;
    if (out.post || out.theta) of_separable();
    if (out.pre)
      parallel_ranges(problem.total(), grain, problem.threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          out.pre[order.pixel[row]] += dot(a, q, row, reversed + order.pixel[row] * packs.labels);
      });
  }

 private:
  // Transforms one row of `rows`.
  CRFRNN_INLINE void transform(const Transform& by, const float* rows, int64_t row, P* to) const {
    P from[Packs<NP>::capacity];
    for (int b = 0; b < packs; ++b) to[b] = P::zero();
    packs.load(rows + row * packs.labels, from);
    by.template add<NP>(from, packs, to);
  }
  CRFRNN_INLINE float dot(const Transform& by, const float* rows, int64_t row, const float* other) const {
    P from[Packs<NP>::capacity], to[Packs<NP>::capacity], sum = P::zero();
    transform(by, rows, row, to);
    packs.load(other, from);
    for (int b = 0; b < packs; ++b) sum = P::fma(to[b], from[b], sum);
    return sum.sum();
  }

  void of_lattice(bool spread_ready) const {
    const Lattice& lattice = kernel.lattice;
    const int64_t width = problem.width();
    const size_t bytes = Messages::lattice_bytes(problem);
    const Buffer forward_rows(bytes), backward_rows(spread_ready ? 0 : bytes),
        mixed(static_cast<size_t>(2 * problem.total() * width) * sizeof(float));
    float* g_hat = mixed.as<float>();                // Aᵀ g, one row per point of this lattice
    float* q_hat = g_hat + problem.total() * width;  // A q
    parallel_ranges(lattice.points, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t row = order.row[lattice.order[p]];
        P to[Packs<NP>::capacity];
        transform(transposed, g, row, to);
        for (int b = 0; b < packs; ++b) to[b].store(g_hat + p * packs.width() + b * P::lanes);
        transform(a, q, row, to);
        for (int b = 0; b < packs; ++b) to[b].store(q_hat + p * packs.width() + b * P::lanes);
      }
    });
    const Sweep<float, NP> sweep = messages.template sweep_of<NP>(kernel, false);
    messages.spread_rows(sweep, messages.template source_of<NP>(kernel, q, kernel.pre),
                         forward_rows.as<float>());
    if (!spread_ready)
      messages.spread_rows(messages.template sweep_of<NP>(kernel, true),
                           messages.template source_of<NP>(kernel, g, kernel.post),
                           backward_rows.as<float>());
    const float* back_rows = (spread_ready ? messages.spread : backward_rows).template as<float>();
    const RowShape<float, NP> like = sweep.shape;
    const float factor = slice_factor<float>(lattice.dim);
    sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
      for (int64_t s = begin; s < end; ++s)
        for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p)
          add_point(like, factor, s, p, g_hat, forward_rows.as<float>(), q_hat, back_rows);
    });
  }

  // Point p of simplex s: at its corners, multiplies Aᵀ g by the spread rows of q, and A q by those of g.
  CRFRNN_INLINE void add_point(const RowShape<float, NP> like, float factor, int64_t s, int64_t p,
                               const float* g_hat, const float* forward_rows, const float* q_hat,
                               const float* back_rows) const {
    const int corners = kernel.lattice.dim + 1;
    const int32_t* vertex = kernel.lattice.simplex_vertex + s * corners;
    const int64_t pixel = kernel.lattice.order[p];
    const float pre = kernel.pre ? kernel.pre[pixel] : 1.f, post = kernel.post ? kernel.post[pixel] : 1.f;
    float pre_sum = 0.f, post_sum = 0.f;
    for (int k = 0; k < corners; ++k) {
      const int64_t at = vertex[k] * like.width;
      P ahead = P::zero(), back = P::zero();
      for (int b = 0; b < packs; ++b) {
        const int64_t lane = p * packs.width() + b * P::lanes;
        ahead = P::fma(P::load(g_hat + lane), like.load(forward_rows + at, b), ahead);
        back = P::fma(P::load(q_hat + lane), like.load(back_rows + at, b), back);
      }
      const float d_ahead = ahead.sum() * factor, d_back = back.sum() * factor;
      if (out.weights) out.weights[p * corners + k] += post * d_ahead + pre * d_back;
      post_sum += kernel.weights[p * corners + k] * d_ahead;
      pre_sum += kernel.weights[p * corners + k] * d_back;
    }
    if (out.post) out.post[pixel] += post_sum;
    if (out.pre) out.pre[pixel] += pre_sum;
  }

  // The gradient of the closing scale and of θ for every axis: the products of Aᵀ g with K q and with the
  // derivatives of K in θ.
  void of_separable() const {
    const int64_t total = problem.total();
    const Buffer message_rows(static_cast<size_t>(problem.plane()) * sizeof(float));
    const Buffer partial(sizeof(double) * fixed_parts);
    for (int axis = out.post ? -1 : 0; axis < (out.theta ? 3 : 0); ++axis) {
      if (axis >= 0 && problem.grid[axis] == 1) continue;
      messages.separable_messages(kernel, axis, q, kernel.pre, message_rows.as<float>());
      parallel_for(fixed_parts, problem.threads, [&](int64_t part, int) {
        double sum = 0;
        for (int64_t row = total * part / fixed_parts; row < total * (part + 1) / fixed_parts; ++row) {
          const int64_t pixel = order.pixel[row];
          const float product = dot(transposed, g, row, message_rows.as<float>() + pixel * packs.labels);
          if (axis < 0)
            out.post[pixel] += product;
          else
            sum += static_cast<double>(product) * (kernel.post ? kernel.post[pixel] : 1.f);
        }
        partial.as<double>()[part] = sum;
      });
      if (axis >= 0)
        for (int64_t part = 0; part < fixed_parts; ++part) out.theta[axis] += partial.as<double>()[part];
    }
  }
};

// dL/dQ = Σ_m A_mᵀ h_m, then back through the softmax: g = Q ∘ (dL/dQ - Q · dL/dQ), plus the part of g that
// goes directly to the previous iteration (damping).
template <int NP, bool common>
struct Backward {
  const Problem& problem;
  const Grams<NP>& grams;
  Inbox<NP, common> inbox;
  const float* q;
  float *g, *du;
  float back;  // factor of that part of g, 0 in the common case

  CRFRNN_INLINE void operator()(int64_t row, const P* sliced, int part) const {
    const Packs<NP>& packs = inbox.packs;
    const int64_t at = row * packs.labels;
    inbox.ask(row, q);
    P dq[Packs<NP>::capacity], qs[Packs<NP>::capacity], here[Packs<NP>::capacity], sum[Packs<NP>::capacity],
        dot = P::zero();
    packs.load(q + at, qs);
    packs.load(g + at, here);
    packs.load(du + at, sum);
    inbox.template take<true>(row, sliced, dq, [&](int64_t m, const P* h) CRFRNN_INLINE_LAMBDA {
      float* keep = grams.message(part, m);
      for (int b = 0; b < packs; ++b) h[b].store(keep + b * P::lanes);
    });
    float* keep = grams.marginal(part);
    for (int b = 0; b < packs; ++b) {
      qs[b].store(keep + b * P::lanes);
      dot = P::fma(qs[b], dq[b], dot);
      sum[b] = sum[b] + here[b];
    }
    packs.store(sum, du + at);
    const bool held = is_held<common>(problem, inbox.pixel_of[row]);
    const P mean = P::set(dot.sum());
    for (int b = 0; b < packs; ++b) {
      const P change = held ? P::zero() : qs[b] * (dq[b] - mean);
      here[b] = common ? change : P::fma(P::set(back), here[b], change);
    }
    packs.store(here, g + at);
    grams.next(part);
  }
};

// Back through all iterations: g is dL/dx_t, and du accumulates the gradient of the unary.
template <int NP>
void iterate_back(const Problem& problem, const Order& order, const float* kept, float* g, float* du,
                  float* grad_transform, KernelGradient* grad_kernels) {
  const int64_t labels = problem.labels;
  const int kernels = problem.kernel_count;
  const Packs<NP> packs(problem);
  const Messages messages(problem, order);
  bool bandwidths = false;
  for (int m = 0; m < kernels; ++m)
    bandwidths = bandwidths || grad_kernels[m].weights || grad_kernels[m].theta || grad_kernels[m].pre ||
                 grad_kernels[m].post;
  const Leading<NP> leading(messages, true, !bandwidths && problem.damping == 1.f);
  const Others others(problem, kernels - leading.sliced);
  const Transforms transforms(problem, true), plain(problem, false);
  const Inbox<NP, true> common(leading, others, transforms);
  const Inbox<NP, false> any(leading, others, transforms);
  const Grams<NP> grams(problem, packs);
  const float step = problem.damping, back = step == 1.f ? 0.f : (1.f - step) / step;

  leading.begin(g);
  for (int t = problem.iterations - 1; t >= 0; --t) {
    const float* q = kept + t * problem.plane();
    // x_t = (1 - η) x_{t-1} + η (...): the second term gets η g; the part of the first term is added back
    // below
    if (step != 1.f) each_pack(problem, [&](int64_t i) { (P::load(g + i) * P::set(step)).store(g + i); });
    others.pass(leading, g);
    leading.spread(g);
    if (bandwidths)
      for (int m = 0; m < kernels; ++m)
        KernelDerivative<NP>{messages, problem.kernels[m], plain[m], transforms[m], q, g, grad_kernels[m]}
            .add(others.at[m], leading.is(m));
    float* made = t > 0 ? g : nullptr;
    const Backward<NP, false> body{problem, grams, any, q, g, du, back};
    if (leading.turning)
      leading.turn(made, is_common(problem, leading, transforms),
                   Backward<NP, true>{problem, grams, common, q, g, du, back}, body);
    else
      leading.slice(body);
    parallel_for(fixed_parts, problem.threads, [&](int64_t part, int) { grams.flush(part); });
  }
  for (int m = 0; m < kernels; ++m)
    for (int64_t r = 0; r < labels; ++r)
      for (int64_t c = 0; c < labels; ++c) {
        double sum = 0;
        for (int64_t part = 0; part < fixed_parts; ++part)
          sum += grams.sums.template as<float>()[(part * kernels + m) * grams.matrix + r * grams.width + c];
        grad_transform[(m * labels + r) * labels + c] = static_cast<float>(sum);
      }
}

template <int NP>
void backward(const Problem& problem, const float* grad_logits, const float* kept, float* grad_unary,
              float* grad_initial, float* grad_transform, KernelGradient* grad_kernels) {
  const Order order(problem);
  const int64_t total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(problem);
  const size_t bytes = static_cast<size_t>(problem.plane()) * sizeof(float);
  const Buffer gradient_rows(bytes), unary_rows(bytes);
  float* g = gradient_rows.as<float>();
  float* du = unary_rows.as<float>();
  planes_to_rows(problem, order, grad_logits, g);
  clear_pad(problem, du);
  parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      P here[Packs<NP>::capacity], none[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) none[b] = P::zero();
      packs.load(g + row * labels, here);
      const bool masked = problem.mask && !problem.mask[order.pixel[row]];  // then the output is the unary
      packs.store(masked ? here : none, du + row * labels);
      if (masked) packs.store(none, g + row * labels);
    }
  });
  iterate_back<NP>(problem, order, kept, g, du, grad_transform, grad_kernels);
  if (!grad_initial)
    each_pack(problem, [&](int64_t i) { (P::load(du + i) + P::load(g + i)).store(du + i); });
  else
    rows_to_planes(problem, order, g, grad_initial);
  rows_to_planes(problem, order, du, grad_unary);
}

}  // namespace

void mean_field_backward(const Problem& problem, const float* grad_logits, const float* marginals,
                         float* grad_unary, float* grad_initial, float* grad_transform,
                         KernelGradient* grad_kernels) {
  with_packs(problem, [&]<int NP>() {
    backward<NP>(problem, grad_logits, marginals, grad_unary, grad_initial, grad_transform, grad_kernels);
  });
}

}  // namespace crfrnn::CRFRNN_ISA
