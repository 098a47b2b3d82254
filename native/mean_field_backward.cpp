// SPDX-License-Identifier: MIT
// The derivative of mean_field.cpp. K_m acts on pixels, A_m on labels, so they commute: Kᵀg is filtered once and serves the
// gradient of the marginals (Aᵀ Kᵀ g) as well as that of A (Kᵀg · Qᵀ).
#include "mean_field.hpp"
#include "steps.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// C += hᵀ q over a few rows at a time, so that the sums stay in registers.
template <int NP>
struct Gram {
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

// The parts of K_m's own derivative that one iteration adds: barycentric weights, scales, bandwidths.
template <int NP>
void kernel_gradients(const Problem& problem, const Order& order, const Messages& messages, int m, const Transform& forward_a,
                      const Transform& transposed_a, const float* q, const float* g, const float* reversed, bool spread_ready, KernelGradient& out) {
  const Kernel& kernel = problem.kernels[m];
  const int64_t width = problem.width(), total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(width);
  constexpr int NB = NP == 1 ? 1 : 2;
  const bool scales = out.pre || out.post;
  if (kernel.is_lattice && (out.weights || scales)) {
    const Lattice& lattice = kernel.lattice;
    const int corners = lattice.dim + 1;
    const size_t bytes = Messages::lattice_bytes(problem);
    const Buffer forward_rows(bytes), backward_rows(spread_ready ? 0 : bytes), mixed(static_cast<size_t>(2 * total * width) * sizeof(float));
    float* g_hat = mixed.as<float>();       // Aᵀ g, one row a point of this lattice
    float* q_hat = g_hat + total * width;   // A q
    parallel_ranges(lattice.points, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t row = order.row[lattice.order[p]];
        P from[Packs<NP>::capacity], to[Packs<NP>::capacity];
        for (int b = 0; b < packs; ++b) from[b] = P::load(g + row * packs.width() + b * P::lanes), to[b] = P::zero();
        transposed_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) to[b].store(g_hat + p * packs.width() + b * P::lanes);
        for (int b = 0; b < packs; ++b) from[b] = P::load(q + row * labels + b * P::lanes), to[b] = P::zero();
        forward_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) to[b].store(q_hat + p * packs.width() + b * P::lanes);
      }
    });
    const Sweep<float, NB> sweep(lattice, kernel.weights, false, problem.threads);
    const float factor = slice_factor<float>(kernel.lattice.dim);
    const float* back_rows = (spread_ready ? messages.spread : backward_rows).as<float>();  // of Kᵀ g, already there
    for (int64_t column = 0; column < width; column += NB * P::lanes) {
      messages.spread_columns<NB>(kernel, false, RowsView{q, labels}, kernel.pre, column, forward_rows.as<float>());
      if (!spread_ready)
        messages.spread_columns<NB>(kernel, true, RowsView{g, width}, kernel.post, column, backward_rows.as<float>());
      sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
        for (int64_t s = begin; s < end; ++s) {
          const int32_t* vertex = lattice.simplex_vertex + s * corners;
          for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
            const int64_t pixel = lattice.order[p];
            const float pre = kernel.pre ? kernel.pre[pixel] : 1.f, post = kernel.post ? kernel.post[pixel] : 1.f;
            float pre_sum = 0.f, post_sum = 0.f;
            for (int k = 0; k < corners; ++k) {
              P ahead = P::zero(), back = P::zero();
              for (int b = 0; b < NB; ++b) {
                const int64_t at = int64_t{vertex[k]} * NB * P::lanes + b * P::lanes;
                const int64_t lane = p * width + column + b * P::lanes;
                ahead = P::fma(P::load(g_hat + lane), P::load(forward_rows.as<float>() + at), ahead);
                back = P::fma(P::load(q_hat + lane), P::load(back_rows + at), back);
              }
              const float d_ahead = ahead.sum() * factor, d_back = back.sum() * factor;
              if (out.weights) out.weights[p * corners + k] += post * d_ahead + pre * d_back;
              post_sum += kernel.weights[p * corners + k] * d_ahead;
              pre_sum += kernel.weights[p * corners + k] * d_back;
            }
            if (out.post) out.post[pixel] += post_sum;
            if (out.pre) out.pre[pixel] += pre_sum;
          }
        }
      });
    }
    return;
  }
  if (kernel.is_lattice || (!out.theta && !scales)) return;

  const Buffer ahead_rows(static_cast<size_t>(total * width) * sizeof(float));
  const float* ahead = ahead_rows.as<float>();
  const Buffer partial(sizeof(double) * fixed_parts);
  for (int axis = out.post ? -1 : 0; axis < (out.theta ? 3 : 0); ++axis) {
    if (axis >= 0 && problem.grid[axis] == 1) continue;
    messages.separable_messages(kernel, axis, RowsView{q, labels}, kernel.pre, ahead_rows.as<float>());
    parallel_for(fixed_parts, problem.threads, [&](int64_t part, int) {
      double sum = 0;
      for (int64_t row = total * part / fixed_parts; row < total * (part + 1) / fixed_parts; ++row) {
        const int64_t pixel = order.pixel[row];
        P from[Packs<NP>::capacity], to[Packs<NP>::capacity], dot = P::zero();
        for (int b = 0; b < packs; ++b) from[b] = P::load(g + row * packs.width() + b * P::lanes), to[b] = P::zero();
        transposed_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) dot = P::fma(to[b], P::load(ahead + pixel * packs.width() + b * P::lanes), dot);
        if (axis < 0)
          out.post[pixel] += dot.sum();
        else
          sum += static_cast<double>(dot.sum()) * (kernel.post ? kernel.post[pixel] : 1.f);
      }
      partial.as<double>()[part] = sum;
    });
    if (axis >= 0)
      for (int64_t part = 0; part < fixed_parts; ++part) out.theta[axis] += partial.as<double>()[part];
  }
  if (out.pre)
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t pixel = order.pixel[row];
        P from[Packs<NP>::capacity], to[Packs<NP>::capacity], dot = P::zero();
        for (int b = 0; b < packs; ++b) from[b] = P::load(q + row * labels + b * P::lanes), to[b] = P::zero();
        forward_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) dot = P::fma(to[b], P::load(reversed + pixel * packs.width() + b * P::lanes), dot);
        out.pre[pixel] += dot.sum();
      }
    });
}

// Back through all iterations: g is dL/dx_t, du gathers what reaches the unary on the way.
template <int NP>
void iterate_back(const Problem& problem, const Order& order, const float* kept, float* g, float* du, float* grad_transform,
                  KernelGradient* grad_kernels) {
  const int64_t width = problem.width(), total = problem.total(), labels = problem.labels;
  const int kernels = problem.kernel_count;
  const Packs<NP> packs(width);
  const Messages messages(problem, order);
  const bool fused = NP != 0 && order.lattice;
  const Others others(problem, order, fused);
  const Transforms transforms(problem, true), plain(problem, false);
  const int64_t matrix = labels * width;
  const Buffer places(sizeof(float*) * static_cast<size_t>(kernels)),
      gram(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * matrix)),
      batches(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * Gram<NP>::batch * width)),
      batch_q(sizeof(float) * static_cast<size_t>(fixed_parts * Gram<NP>::batch * width)),
      counts(64 * fixed_parts);  // one cache line each
  const float step = problem.damping;
  for (int64_t i = 0; i < fixed_parts * kernels * matrix; ++i) gram.as<float>()[i] = 0.f;

  const float** at = places.as<const float*>();
  const Gram<NP> products{labels, width, packs};
  for (int t = problem.iterations - 1; t >= 0; --t) {
    const float* q = kept + t * problem.plane();
    if (step != 1.f)  // x_t = (1 - η) x_{t-1} + η (...): the second part takes η g, the first is added back below
      parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * width; i < end * width; i += P::lanes) (P::load(g + i) * P::set(step)).store(g + i);
      });
    pass_messages<NP>(problem, order, messages, others, fused, true, RowsView{g, width}, at);
    for (int m = 0; m < kernels; ++m)
      kernel_gradients<NP>(problem, order, messages, m, plain[m], transforms[m], q, g, at[m], fused && m == order.first, grad_kernels[m]);
    for (int64_t i = 0; i < fixed_parts; ++i) counts.as<int>()[i * 16] = 0;
    const auto flush = [&](int part) {
      int& count = counts.as<int>()[part * 16];
      for (int m = 0; m < kernels; ++m)
        products.add(batches.as<float>() + (int64_t{part} * kernels + m) * Gram<NP>::batch * width,
                     batch_q.as<float>() + int64_t{part} * Gram<NP>::batch * width, count,
                     gram.as<float>() + (int64_t{part} * kernels + m) * matrix);
      count = 0;
    };
    const float* pre = fused ? problem.kernels[order.first].pre : nullptr;
    each_row<NP>(problem, order, messages, fused, true, pre, [&](int64_t row, const P* message, int part) {
      const int64_t pixel = order.pixel[row];
      prefetch_messages(problem, order, at, row, packs);
      int& count = counts.as<int>()[part * 16];
      P dq[Packs<NP>::capacity], other[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) dq[b] = P::zero();
      for (int m = 0; m < kernels; ++m) {
        const P* h = message;
        if (at[m]) {
          load_message(at[m], pixel, problem.kernels[m].pre, packs, other);
          h = other;
        }
        transforms[m].add<NP>(h, packs, labels, dq);
        float* keep = batches.as<float>() + ((int64_t{part} * kernels + m) * Gram<NP>::batch + count) * width;
        for (int b = 0; b < packs; ++b) h[b].store(keep + b * P::lanes);
      }
      P qs[Packs<NP>::capacity], dot = P::zero();
      float* keep_q = batch_q.as<float>() + (int64_t{part} * Gram<NP>::batch + count) * width;
      for (int b = 0; b < packs; ++b) {
        qs[b] = P::load(q + row * labels + b * P::lanes);
        qs[b].store(keep_q + b * P::lanes);
        dot = P::fma(qs[b], dq[b], dot);
      }
      const bool held = (problem.mask && !problem.mask[pixel]) || (problem.clamp && problem.clamp[pixel] >= 0);
      const P mean = P::set(dot.sum()), back = P::set(step == 1.f ? 0.f : (1.f - step) / step);
      for (int b = 0; b < packs; ++b) {
        const int64_t lane = row * packs.width() + b * P::lanes;
        const P here = P::load(g + lane);
        (P::load(du + lane) + here).store(du + lane);
        const P through = held ? P::zero() : qs[b] * (dq[b] - mean);
        P::fma(back, here, through).store(g + lane);
      }
      if (++count == Gram<NP>::batch) flush(part);
    });
    parallel_for(fixed_parts, problem.threads, [&](int64_t part, int) { flush(static_cast<int>(part)); });
  }
  for (int m = 0; m < kernels; ++m)
    for (int64_t r = 0; r < labels; ++r)
      for (int64_t c = 0; c < labels; ++c) {
        double sum = 0;
        for (int64_t part = 0; part < fixed_parts; ++part) sum += gram.as<float>()[(part * kernels + m) * matrix + r * width + c];
        grad_transform[(m * labels + r) * labels + c] = static_cast<float>(sum);
      }
}

template <int NP>
void backward(const Problem& problem, const float* grad_logits, const float* kept, float* grad_unary, float* grad_initial,
              float* grad_transform, KernelGradient* grad_kernels) {
  const Order order(problem);
  const int64_t width = problem.width(), total = problem.total();
  const Packs<NP> packs(width);
  const size_t bytes = static_cast<size_t>(total * width) * sizeof(float);
  const Buffer gradient_rows(bytes), unary_rows(bytes);
  float* g = gradient_rows.as<float>();
  float* du = unary_rows.as<float>();
  planes_to_rows(problem, order, grad_logits, 0.f, g);
  parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const bool masked = problem.mask && !problem.mask[order.pixel[row]];  // its output is its unary
      for (int b = 0; b < packs; ++b) {
        const int64_t at = row * width + b * P::lanes;
        (masked ? P::load(g + at) : P::zero()).store(du + at);
        if (masked) P::zero().store(g + at);
      }
    }
  });
  iterate_back<NP>(problem, order, kept, g, du, grad_transform, grad_kernels);
  if (!grad_initial)
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * width; i < end * width; i += P::lanes) (P::load(du + i) + P::load(g + i)).store(du + i);
    });
  else
    rows_to_planes(problem, order, g, grad_initial);
  rows_to_planes(problem, order, du, grad_unary);
}

}  // namespace

void mean_field_backward(const Problem& problem, const float* grad_logits, const float* marginals, float* grad_unary,
                         float* grad_initial, float* grad_transform, KernelGradient* grad_kernels) {
  with_packs(problem, [&]<int NP>() {
    backward<NP>(problem, grad_logits, marginals, grad_unary, grad_initial, grad_transform, grad_kernels);
  });
}

}  // namespace crfrnn::CRFRNN_ISA
