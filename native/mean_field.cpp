// SPDX-License-Identifier: MIT
#include "mean_field.hpp"

#include <new>

#include "messages.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

using P = Pack<float>;

// A_m for the rows: its diagonal where it is one, else its columns, one row of labels each.
struct Transform {
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

  // x += A · message; the row of the message is read back from memory for its single labels.
  template <int NP>
  CRFRNN_INLINE void add(const P* message, const Packs<NP>& packs, int64_t labels, P* x) const {
    const float* a = columns.as<float>();
    if (diagonal) {
      for (int b = 0; b < packs; ++b) x[b] = P::fma(P::load(a + b * P::lanes), message[b], x[b]);
      return;
    }
    alignas(64) float single[Packs<NP>::capacity * P::lanes];
    for (int b = 0; b < packs; ++b) message[b].store(single + b * P::lanes);
    for (int64_t l = 0; l < labels; ++l, a += packs * P::lanes) {
      const P one = P::set(single[l]);
      for (int b = 0; b < packs; ++b) x[b] = P::fma(P::load(a + b * P::lanes), one, x[b]);
    }
  }
};

// Owns the transforms of all kernels without the standard containers, which this file must not compile.
struct Transforms {
  Buffer memory;
  int count;
  Transforms(const Problem& problem, bool transposed)
      : memory(sizeof(Transform) * static_cast<size_t>(problem.kernel_count)), count(problem.kernel_count) {
    for (int m = 0; m < count; ++m) new (memory.as<Transform>() + m) Transform(problem, m, transposed);
  }
  ~Transforms() {
    for (int m = 0; m < count; ++m) memory.as<Transform>()[m].~Transform();
  }
  const Transform& operator[](int m) const { return memory.as<Transform>()[m]; }
};

// Calls body(row, message packs) for all rows, the message being the first lattice's where it fits the registers (NP packs),
// already scaled by `scale`; rows outside the lattice come with zeros. body(begin, end) ranges are fixed: sums over them
// do not depend on the number of threads.
template <int NP, class Row, class Body>
void each_row(const Problem& problem, const Order& order, const Messages<Row>& messages, bool fused, bool reverse,
              const float* scale, const Body& body) {
  int64_t from = 0;
  if constexpr (NP != 0) {
    if (fused) {
      const Kernel& kernel = problem.kernels[order.first];
      const Sweep<float, float, NP> sweep(kernel.lattice, kernel.weights, reverse, problem.threads);
      const float factor = slice_factor<float>(kernel.lattice.dim);
      with_corners(kernel.lattice.dim, [&]<int V>() {
        sweep.each_simplex_range([&](int64_t begin, int64_t end, int part) {
          sweep.template slice<V>(begin, end, messages.spread.template as<float>(), [&](int64_t row, P* sum) {
            const P f = P::set(scale ? scale[order.pixel[row]] * factor : factor);
            for (int b = 0; b < NP; ++b) sum[b] = sum[b] * f;
            body(row, sum, part);
          });
        });
      });
      from = kernel.lattice.points;
    }
  }
  const int64_t total = problem.total(), parts = fixed_parts;
  if (from == total) return;
  parallel_for(parts, problem.threads, [&](int64_t part, int) {
    P none[Packs<NP>::capacity];
    for (auto& pack : none) pack = P::zero();
    for (int64_t row = from + (total - from) * part / parts; row < from + (total - from) * (part + 1) / parts; ++row)
      body(row, none, static_cast<int>(part));
  });
}

// The messages of all kernels but the fused one, each in the pixels' own order.
template <class Row>
struct Others {
  Buffer pointers, lattice_rows;
  Row** rows;

  Others(const Problem& problem, const Order& order, bool fused)
      : pointers(sizeof(Row*) * static_cast<size_t>(problem.kernel_count)), lattice_rows(bytes(problem, order, fused)),
        rows(pointers.as<Row*>()) {
    Row* next = lattice_rows.as<Row>();
    int separables = 0;
    for (int m = 0; m < problem.kernel_count; ++m) {
      rows[m] = nullptr;
      if (fused && m == order.first) continue;
      if (!problem.kernels[m].is_lattice && separables++ == 0) continue;  // the first one uses the shared pair
      rows[m] = next;
      next += problem.total() * problem.width();
    }
  }
  static size_t bytes(const Problem& problem, const Order& order, bool fused) {
    int64_t count = 0;
    int separables = 0;
    for (int m = 0; m < problem.kernel_count; ++m) {
      if (fused && m == order.first) continue;
      if (!problem.kernels[m].is_lattice && separables++ == 0) continue;
      ++count;
    }
    return static_cast<size_t>(count * problem.total() * problem.width()) * sizeof(Row);
  }
};

// Runs every kernel over `rows` (K, or Kᵀ with the scales exchanged); at[m] is where its messages lie.
template <int NP, class Row, class Value>
void pass_messages(const Problem& problem, const Order& order, const Messages<Row>& messages, const Others<Row>& others,
                   bool fused, bool reverse, const Value* rows, const Row** at) {
  bool pair_taken = false;
  constexpr int NB = NP == 1 ? 1 : 2;
  for (int m = 0; m < problem.kernel_count; ++m) {
    const Kernel& kernel = problem.kernels[m];
    const float* scale = reverse ? kernel.post : kernel.pre;
    at[m] = nullptr;
    if (fused && m == order.first) continue;
    if (kernel.is_lattice) {
      messages.template lattice_messages<NB>(kernel, reverse, rows, scale, others.rows[m]);
      at[m] = others.rows[m];
      continue;
    }
    Row* one = messages.one.template as<Row>();
    Row* two = messages.two.template as<Row>();
    Row* result = messages.separable_messages(kernel, -1, rows, scale, one, two);
    if (!pair_taken && others.rows[m] == nullptr) {
      pair_taken = true;
      at[m] = result;
    } else {
      const int64_t size = messages.rows_size;
      parallel_ranges(problem.total(), grain, problem.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * messages.width; i < end * messages.width && i < size; i += P::lanes)
          P::load(result + i).store(others.rows[m] + i);
      });
      at[m] = others.rows[m];
    }
  }
  // Last, so that no other lattice overwrites the rows that the fused slice is about to read.
  if constexpr (NP != 0)
    if (fused) {
      const Kernel& kernel = problem.kernels[order.first];
      messages.template spread_columns<NP>(kernel, reverse, rows, reverse ? kernel.post : kernel.pre, 0,
                                           messages.spread.template as<float>());
    }
}

template <int NP, class Row>
CRFRNN_INLINE void load_message(const Row* rows, int64_t pixel, const float* scale, const Packs<NP>& packs, P* out) {
  const P factor = P::set(scale ? scale[pixel] : 1.f);
  for (int b = 0; b < packs; ++b) out[b] = P::load(rows + pixel * packs.width() + b * P::lanes) * factor;
}

// The messages that lie in the pixels' own order are scattered for the rows.
template <int NP, class Row>
CRFRNN_INLINE void prefetch_messages(const Problem& problem, const Order& order, const Row* const* at, int64_t row,
                                     const Packs<NP>& packs) {
  if (row + ahead >= problem.total()) return;
  const int64_t pixel = order.pixel[row + ahead];
  for (int m = 0; m < problem.kernel_count; ++m)
    if (at[m]) prefetch_bytes(at[m] + pixel * packs.width(), packs.width() * static_cast<int64_t>(sizeof(Row)));
}

template <int NP, class Row>
CRFRNN_INLINE void write_marginals(const Problem& problem, int64_t pixel, const P* x, const Packs<NP>& packs, Row* out) {
  if ((problem.mask && !problem.mask[pixel]) || (problem.clamp && problem.clamp[pixel] >= 0)) {
    const bool valid = !problem.mask || problem.mask[pixel];
    for (int b = 0; b < packs; ++b) {
      alignas(64) float row[P::lanes] = {};
      const int64_t label = valid ? problem.clamp[pixel] - int64_t{b} * P::lanes : -1;
      if (label >= 0 && label < P::lanes) row[label] = 1.f;
      P::load(row).store(out + b * P::lanes);
    }
    return;
  }
  softmax(x, packs, out);
}

template <int NP, class Row>
bool forward(const Problem& problem, const float* unary, const float* initial, float* logits, Row* kept) {
  const Order order(problem);
  const int64_t width = problem.width(), total = problem.total();
  const Packs<NP> packs(width);
  const Messages<Row> messages(problem, order);
  const bool fused = NP != 0 && order.lattice;
  const Others<Row> others(problem, order, fused);
  const Transforms transforms(problem, false);
  const size_t plane = static_cast<size_t>(total * width);
  const bool damped = problem.damping != 1.f;
  const Buffer unary_rows(plane * sizeof(float)), state_rows(damped || initial ? plane * sizeof(float) : 0),
      marginal_rows(kept ? 0 : plane * sizeof(Row)), places(sizeof(Row*) * static_cast<size_t>(problem.kernel_count));
  float* u = unary_rows.as<float>();
  float* state = damped || initial ? state_rows.as<float>() : u;
  if (!planes_to_rows(problem, order, unary, minus_infinity, u)) return false;
  if (initial && !planes_to_rows(problem, order, initial, minus_infinity, state)) return false;
  if (!initial && damped)
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * width; i < end * width; i += P::lanes) P::load(u + i).store(state + i);
    });

  Row* q = kept ? kept : marginal_rows.as<Row>();
  parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      P x[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) x[b] = P::load(state + row * packs.width() + b * P::lanes);
      write_marginals(problem, order.pixel[row], x, packs, q + row * packs.width());
    }
  });

  const Row** at = places.as<const Row*>();
  const P step = P::set(problem.damping), stay = P::set(1.f - problem.damping);
  for (int t = 0; t < problem.iterations; ++t) {
    pass_messages<NP>(problem, order, messages, others, fused, false, q, at);
    const bool last = t + 1 == problem.iterations;
    Row* next = kept ? kept + static_cast<int64_t>(t + 1) * static_cast<int64_t>(plane) : q;
    const float* post = fused ? problem.kernels[order.first].post : nullptr;
    each_row<NP>(problem, order, messages, fused, false, post, [&](int64_t row, const P* message, int) {
      const int64_t pixel = order.pixel[row];
      prefetch_messages(problem, order, at, row, packs);
      P x[Packs<NP>::capacity], other[Packs<NP>::capacity];
      for (int b = 0; b < packs; ++b) x[b] = P::load(u + row * packs.width() + b * P::lanes);
      for (int m = 0; m < problem.kernel_count; ++m) {
        if (!at[m]) {
          transforms[m].add<NP>(message, packs, problem.labels, x);
          continue;
        }
        load_message(at[m], pixel, problem.kernels[m].post, packs, other);
        transforms[m].add<NP>(other, packs, problem.labels, x);
      }
      if (damped)
        for (int b = 0; b < packs; ++b)
          x[b] = P::fma(stay, P::load(state + row * packs.width() + b * P::lanes), step * x[b]);
      if (last || damped)
        if (!problem.mask || problem.mask[pixel])
          for (int b = 0; b < packs; ++b) x[b].store(state + row * packs.width() + b * P::lanes);
      if (!last) write_marginals(problem, pixel, x, packs, next + row * packs.width());
    });
    q = next;
  }
  rows_to_planes(problem, order, state, logits);
  return true;
}

// C += hᵀ q over a few rows at a time, so that the sums stay in registers.
template <int NP>
struct Gram {
  static constexpr int batch = 32;
  int64_t labels, width;
  Packs<NP> packs;

  template <class Row>
  void add(const float* h, const Row* q, int count, float* sum) const {
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
template <int NP, class Row, class Value>
void kernel_gradients(const Problem& problem, const Order& order, const Messages<Value>& messages, int m, const Transform& forward_a,
                      const Transform& transposed_a, const Row* q, const float* g, const Value* reversed, bool spread_ready, KernelGradient& out) {
  const Kernel& kernel = problem.kernels[m];
  const int64_t width = problem.width(), total = problem.total(), labels = problem.labels;
  const Packs<NP> packs(width);
  constexpr int NB = NP == 1 ? 1 : 2;
  const bool scales = out.pre || out.post;
  if (kernel.is_lattice && (out.weights || scales)) {
    const Lattice& lattice = kernel.lattice;
    const int corners = lattice.dim + 1;
    const size_t bytes = Messages<Value>::lattice_bytes(problem);
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
        for (int b = 0; b < packs; ++b) from[b] = P::load(q + row * packs.width() + b * P::lanes), to[b] = P::zero();
        forward_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) to[b].store(q_hat + p * packs.width() + b * P::lanes);
      }
    });
    const Sweep<float, float, NB> sweep(lattice, kernel.weights, false, problem.threads);
    const float factor = slice_factor<float>(kernel.lattice.dim);
    const float* back_rows = (spread_ready ? messages.spread : backward_rows).template as<float>();  // of Kᵀ g, already there
    for (int64_t column = 0; column < width; column += NB * P::lanes) {
      messages.template spread_columns<NB>(kernel, false, q, kernel.pre, column, forward_rows.as<float>());
      if (!spread_ready)
        messages.template spread_columns<NB>(kernel, true, g, kernel.post, column, backward_rows.as<float>());
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

  const Buffer one(static_cast<size_t>(total * width) * sizeof(Value)), two(problem.grid[0] > 1 ? static_cast<size_t>(total * width) * sizeof(Value) : 0);
  const Buffer partial(sizeof(double) * fixed_parts);
  for (int axis = out.post ? -1 : 0; axis < (out.theta ? 3 : 0); ++axis) {
    if (axis >= 0 && problem.grid[axis] == 1) continue;
    const Value* ahead = messages.separable_messages(kernel, axis, q, kernel.pre, one.as<Value>(), two.as<Value>());
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
        for (int b = 0; b < packs; ++b) from[b] = P::load(q + row * packs.width() + b * P::lanes), to[b] = P::zero();
        forward_a.add<NP>(from, packs, labels, to);
        for (int b = 0; b < packs; ++b) dot = P::fma(to[b], P::load(reversed + pixel * packs.width() + b * P::lanes), dot);
        out.pre[pixel] += dot.sum();
      }
    });
}

template <int NP, class Row>
void backward(const Problem& problem, const float* grad_logits, const Row* kept, float* grad_unary, float* grad_initial,
              float* grad_transform, KernelGradient* grad_kernels) {
  using Value = float;  // gradients span too many magnitudes for half-width storage
  const Order order(problem);
  const int64_t width = problem.width(), total = problem.total(), labels = problem.labels;
  const int kernels = problem.kernel_count;
  const Packs<NP> packs(width);
  const Messages<Value> messages(problem, order);
  const bool fused = NP != 0 && order.lattice;
  const Others<Value> others(problem, order, fused);
  const Transforms transforms(problem, true), plain(problem, false);
  const size_t plane = static_cast<size_t>(total * width);
  const int64_t matrix = labels * width;
  const Buffer gradient_rows(plane * sizeof(float)), unary_rows(plane * sizeof(float)),
      places(sizeof(Value*) * static_cast<size_t>(kernels)),
      gram(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * matrix)),
      batches(sizeof(float) * static_cast<size_t>(fixed_parts * kernels * Gram<NP>::batch * width)),
      batch_q(sizeof(Row) * static_cast<size_t>(fixed_parts * Gram<NP>::batch * width)), counts(64 * fixed_parts);  // one cache line each
  float* g = gradient_rows.as<float>();
  float* du = unary_rows.as<float>();
  planes_to_rows(problem, order, grad_logits, 0.f, g);
  const float step = problem.damping;
  for (int64_t i = 0; i < fixed_parts * kernels * matrix; ++i) gram.as<float>()[i] = 0.f;
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

  const Value** at = places.as<const Value*>();
  const Gram<NP> products{labels, width, packs};
  for (int t = problem.iterations - 1; t >= 0; --t) {
    const Row* q = kept + static_cast<int64_t>(t) * static_cast<int64_t>(plane);
    if (step != 1.f)  // x_t = (1 - η) x_{t-1} + η (...): the second part takes η g, the first is added back below
      parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * width; i < end * width; i += P::lanes) (P::load(g + i) * P::set(step)).store(g + i);
      });
    pass_messages<NP>(problem, order, messages, others, fused, true, g, at);
    for (int m = 0; m < kernels; ++m)
      kernel_gradients<NP>(problem, order, messages, m, plain[m], transforms[m], q, g, at[m], fused && m == order.first, grad_kernels[m]);
    for (int64_t i = 0; i < fixed_parts; ++i) counts.as<int>()[i * 16] = 0;
    const auto flush = [&](int part) {
      int& count = counts.as<int>()[part * 16];
      for (int m = 0; m < kernels; ++m)
        products.add(batches.as<float>() + (int64_t{part} * kernels + m) * Gram<NP>::batch * width,
                     batch_q.as<Row>() + int64_t{part} * Gram<NP>::batch * width, count,
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
      Row* keep_q = batch_q.as<Row>() + (int64_t{part} * Gram<NP>::batch + count) * width;
      for (int b = 0; b < packs; ++b) {
        qs[b] = P::load(q + row * packs.width() + b * P::lanes);
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
  if (!grad_initial)
    parallel_ranges(total, grain, problem.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * width; i < end * width; i += P::lanes) (P::load(du + i) + P::load(g + i)).store(du + i);
    });
  else
    rows_to_planes(problem, order, g, grad_initial);
  rows_to_planes(problem, order, du, grad_unary);
  for (int m = 0; m < kernels; ++m)
    for (int64_t r = 0; r < labels; ++r)
      for (int64_t c = 0; c < labels; ++c) {
        double sum = 0;
        for (int64_t part = 0; part < fixed_parts; ++part) sum += gram.as<float>()[(part * kernels + m) * matrix + r * width + c];
        grad_transform[(m * labels + r) * labels + c] = static_cast<float>(sum);
      }
}

// The number of packs as a constant where a row fits the registers.
template <class F>
void with_packs(const Problem& problem, const F& f) {
  const int64_t packs = problem.width() / P::lanes;
  if (packs == 1) return f.template operator()<1>();
  if (packs == 2) return f.template operator()<2>();
  f.template operator()<0>();
}

bool forward_any(const Problem& problem, const float* unary, const float* initial, float* logits, void* marginals, bool narrow) {
  bool finite = true;
  with_packs(problem, [&]<int NP>() {
    if (narrow)
      finite = forward<NP, half>(problem, unary, initial, logits, static_cast<half*>(marginals));
    else
      finite = forward<NP, float>(problem, unary, initial, logits, static_cast<float*>(marginals));
  });
  return finite;
}

void backward_any(const Problem& problem, const float* grad_logits, const void* marginals, bool narrow, float* grad_unary,
                  float* grad_initial, float* grad_transform, KernelGradient* grad_kernels) {
  with_packs(problem, [&]<int NP>() {
    if (narrow)
      backward<NP, half>(problem, grad_logits, static_cast<const half*>(marginals), grad_unary, grad_initial, grad_transform,
                         grad_kernels);
    else
      backward<NP, float>(problem, grad_logits, static_cast<const float*>(marginals), grad_unary, grad_initial, grad_transform,
                          grad_kernels);
  });
}

}  // namespace

const MeanFieldTable& mean_field_table() {
  static const MeanFieldTable table{&forward_any, &backward_any};
  return table;
}

}  // namespace crfrnn::CRFRNN_ISA
