// SPDX-License-Identifier: MIT
// The steps of an iteration shared by the forward and the backward pass.
#pragma once

#include "messages.hpp"
#include "transform.hpp"
#include "turn.hpp"

namespace crfrnn::CRFRNN_ISA {

using P = Pack<float>;

// The scales of all kernels, permuted to the order of the rows so that they are read sequentially. Without a
// leading lattice, that is the pixels' own order.
struct RowScales {
  Buffer memory, places;
  const float** of;  // null: all 1

  // closing: the scale applied to the messages, otherwise the scale of the input of the filter. reverse: the
  // scale for Kᵀ.
  RowScales(const Problem& problem, const Order& order, bool reverse, bool closing)
      : memory(order.lattice ? static_cast<size_t>(problem.kernel_count * problem.total()) * sizeof(float)
                             : 0),
        places(static_cast<size_t>(problem.kernel_count) * sizeof(float*)), of(places.as<const float*>()) {
    for (int m = 0; m < problem.kernel_count; ++m) {
      const float* scale = reverse == closing ? problem.kernels[m].pre : problem.kernels[m].post;
      float* to = memory.as<float>() + m * problem.total();
      of[m] = scale && order.lattice ? to : scale;
      if (scale && order.lattice)
        parallel_ranges(problem.total(), grain, problem.threads, [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) to[row] = scale[order.pixel[row]];
        });
    }
  }
};

// Wraps a body so that it is called, not inlined into a walk.
template <class Body>
CRFRNN_NOINLINE void apart(const Body& body, int64_t row, const P* sliced, int part) {
  body(row, sliced, part);
}

// The leading lattice, whose order the rows have: it is sliced in the same walk that consumes the message. If
// its blurred rows are not needed elsewhere, that walk also begins the next iteration (`turning`, turn.hpp).
template <int NP>
struct Leading {
  const Problem& problem;
  const Order& order;
  const Messages& messages;
  bool reverse, sliced, turning;
  RowScales opening, closing;
  Buffer own_rows;  // separate lattice rows, if another lattice uses the shared ones
  float* turning_rows;

  Leading(const Messages& m, bool reverse_, bool turning_)
      : problem(m.problem), order(m.order), messages(m), reverse(reverse_),
        sliced(m.order.lattice != nullptr), turning(sliced && turning_),
        opening(problem, order, reverse, false), closing(problem, order, reverse, true),
        own_rows(turning && lattices() > 1 ? Messages::lattice_bytes(problem) : 0),
        turning_rows((lattices() > 1 ? own_rows : messages.between).template as<float>()) {}

  int lattices() const {
    int count = 0;
    for (int m = 0; m < problem.kernel_count; ++m) count += problem.kernels[m].is_lattice;
    return count;
  }
  bool is(int m) const { return sliced && m == order.first; }
  const Kernel& kernel() const { return problem.kernels[order.first]; }
  PixelRows<NP> source(const float* rows) const {
    return messages.template source_of<NP>(kernel(), rows, opening.of[order.first], true);
  }

  struct Splat {
    const Sweep<float, NP>& sweep;
    PixelRows<NP> source;
    void operator()(int64_t slab, float* own, float* next) const {
      Messages::splat(sweep, source, slab, own, next);
    }
  };

  // Before the first iteration: computes the lattice rows of `rows` after the first sweep.
  void begin(const float* rows) const {
    if (turning)
      messages.begin(messages.template sweep_of<NP>(kernel(), reverse), source(rows), turning_rows);
  }

  // If not turning: splats and blurs the rows of this iteration.
  void spread(const float* rows) const {
    if (!sliced || turning) return;
    messages.spread_rows(messages.template sweep_of<NP>(kernel(), reverse), source(rows),
                         messages.spread.template as<float>());
  }

  // Both call body(row, message packs, part) for all rows; rows outside the lattice get zeros. The parts are
  // fixed, so sums over them do not depend on the number of threads. `made`: the rows that body writes, null
  // in the last iteration. common: a faster body for the rows of the lattice, used if it `fits`.
  template <class Common, class Body>
  void turn(const float* made, bool fits, const Common& common, const Body& body) const {
    if (sliced) {
      const Sweep<float, NP> sweep = messages.template sweep_of<NP>(kernel(), reverse);
      const Splat splat{sweep, source(made)};
      const Turn<float, NP, Splat> walk(sweep, splat, turning_rows, made != nullptr);
      const auto to_common = scaled<true>(common);
      const auto to = scaled<false>(body);
      with_corners<NP>(kernel().lattice.dim,
                       [&]<int V>() { walk.template operator()<V>(fits, to_common, to); });
    }
    if (fits)
      rest(common);
    else
      rest(body);
  }

  template <class Body>
  void slice(const Body& body) const {
    if (sliced) {
      const Sweep<float, NP> sweep = messages.template sweep_of<NP>(kernel(), reverse);
      const auto to = scaled<false>(body);
      with_corners<NP>(kernel().lattice.dim, [&]<int V>() {
        sweep.each_simplex_range([&](int64_t begin, int64_t end, int part) {
          sweep.template slice<V>(begin, end, messages.spread.template as<float>(),
                                  [&](int64_t row, P* sum) CRFRNN_INLINE_LAMBDA { to(row, sum, part); });
        });
      });
    }
    rest(body);
  }

  // The rows outside the leading lattice; all rows if there is none.
  template <class Body>
  void rest(const Body& body) const {
    const int64_t total = problem.total(), from = sliced ? kernel().lattice.points : 0;
    if (from == total) return;
    parallel_for(fixed_parts, problem.threads, [&](int64_t part, int) {
      P none[Packs<NP>::capacity];
      for (auto& pack : none) pack = P::zero();
      for (int64_t row = from + (total - from) * part / fixed_parts;
           row < from + (total - from) * (part + 1) / fixed_parts; ++row)
        apart(body, row, none, static_cast<int>(part));
      if constexpr (requires { body.finish(from, total, 0); })
        body.finish(from + (total - from) * part / fixed_parts,
                    from + (total - from) * (part + 1) / fixed_parts, static_cast<int>(part));
    });
  }

  // Wraps body for sliced packs: applies the factor of slicing and the closing scale first.
  template <bool inlined, class Body>
  struct Scaled {
    Body body;
    const float* scale;
    Packs<NP> packs;
    float factor;

    CRFRNN_INLINE void operator()(int64_t row, P* sum, int part) const {
      const P f = P::set(scale ? scale[row] * factor : factor);
      for (int b = 0; b < packs; ++b) sum[b] = sum[b] * f;
      if constexpr (inlined)
        body(row, sum, part);
      else
        apart(body, row, sum, part);
    }
    // Narrow rows: the sums of `some` points, from `row` on, in the parts of a pack.
    CRFRNN_INLINE void parts(int64_t row, int some, P sums, int part) const requires(NP < 0) {
      constexpr int together = Packs<NP>::together;
      if constexpr (requires { body.parts(row, sums, part); }) {
        if (some == together) {
          const P f = P::set(factor);
          sums = sums * (scale ? P::template spread<-NP>([&](int g) { return scale + row + g; }) * f : f);
          return body.parts(row, sums, part);
        }
      }
      alone(row, some, sums, part);
    }
    CRFRNN_NOINLINE void alone(int64_t row, int some, P sums, int part) const {
      alignas(64) float numbers[P::lanes];
      sums.store(numbers);
      for (int g = 0; g < some; ++g) {
        P sum = P::template load_row<-NP>(numbers + g * -NP);
        (*this)(row + g, &sum, part);
      }
    }
    void finish(int64_t begin, int64_t end, int part) const
        requires requires(const Body& like) { like.finish(begin, end, part); } {
      body.finish(begin, end, part);
    }
  };
  template <bool inlined, class Body>
  Scaled<inlined, Body> scaled(const Body& body) const {
    return {body, closing.of[order.first], Packs<NP>(problem), slice_factor<float>(kernel().lattice.dim)};
  }
};

// The messages of all kernels except the sliced one, each in the pixels' own order.
struct Others {
  Buffer pointers, memory;
  const float** at;
  int count;

  Others(const Problem& problem, int count_)
      : pointers(sizeof(float*) * static_cast<size_t>(problem.kernel_count)),
        memory(static_cast<size_t>(count_ * problem.plane()) * sizeof(float)),
        at(pointers.as<const float*>()), count(count_) {}

  // Applies every other kernel to `rows` (K, or Kᵀ with the two scales exchanged); at[m] points to the
  // messages of kernel m, or is null.
  template <int NP>
  void pass(const Leading<NP>& leading, const float* rows) const {
    const Problem& problem = leading.problem;
    float* next = memory.as<float>();
    for (int m = 0; m < problem.kernel_count; ++m) {
      const Kernel& kernel = problem.kernels[m];
      at[m] = nullptr;
      if (leading.is(m)) continue;
      at[m] = next;
      const float* scale = leading.reverse ? kernel.post : kernel.pre;
      clear_pad(problem, next);
      if (kernel.is_lattice)
        leading.messages.template lattice_messages<NP>(kernel, leading.reverse, rows, scale, next);
      else
        leading.messages.separable_messages(kernel, -1, rows, scale, next);
      next += problem.plane();
    }
  }
};

// The common case, compiled to short loops: one lattice, one other kernel, one weight per label, no clamped
// or masked pixels, no damping. The body of a row is compiled twice: for this case (common = true) and for
// all other problems.
template <int NP>
bool is_common(const Problem& problem, const Leading<NP>& leading, const Transforms& transforms) {
  return leading.sliced && problem.kernel_count == 2 && transforms[0].diagonal && transforms[1].diagonal &&
         !problem.mask && !problem.clamp && problem.damping == 1.f;
}

// Combines the messages of each row, multiplied by A_m. Messages in the pixels' own order are read from
// scattered addresses and therefore prefetched.
template <int NP, bool common>
struct Inbox {
  static constexpr int held = common ? Packs<NP>::capacity : 1;
  static constexpr int64_t distance = common ? 40 : ahead;  // rows between the prefetch of a row and its read
  Packs<NP> packs;
  const Transforms& transforms;
  const int32_t* pixel_of;
  const float *const *rows, *const *scales;
  const float* scattered;  // the first plane in the pixels' own order
  // first: the leading kernel; last: the last row that is prefetched
  int64_t scattered_size, kernels, first, last;
  const float* other_scale = nullptr;  // common: of the other kernel, or null
  P weight[held], other_weight[held];  // common: the diagonals of the two A_m

  Inbox(const Leading<NP>& leading, const Others& others, const Transforms& transforms_)
      : packs(leading.problem), transforms(transforms_), pixel_of(leading.order.pixel), rows(others.at),
        scales(leading.closing.of), scattered(others.memory.template as<float>()),
        scattered_size(others.count ? leading.problem.labels * static_cast<int64_t>(sizeof(float)) + 63 : 0),
        kernels(leading.problem.kernel_count), first(leading.order.first),
        last(leading.problem.total() - 1 - distance) {
    if (!common || !is_common(leading.problem, leading, transforms)) return;
    other_scale = scales[1 - first];
    for (int b = 0; b < held && b < packs; ++b) {
      weight[b] = diagonal(transforms[first], b);
      other_weight[b] = diagonal(transforms[1 - first], b);
    }
  }

  // Prefetches data needed soon: the scattered rows and, in the common case, the row of `own`.
  CRFRNN_INLINE void ask(int64_t row, const float* own) const {
    if (row > last) return;
    const float* early = scattered + int64_t{pixel_of[row + distance]} * packs.step();
    if constexpr (common) {
      for (int b = 0; b <= packs; ++b) prefetch(early + b * P::lanes);
      for (int b = 0; b < packs; ++b) prefetch(own + (row + distance) * packs.step() + b * P::lanes);
    } else {
      prefetch_bytes(early, scattered_size);
    }
  }

  // x += Σ_m A_m h_m over the messages h_m, or x = Σ_m A_m h_m if `fresh`. `sliced` is the message of the
  // leading lattice. Calls seen(m, h_m) for each message.
  template <bool fresh, class Seen>
  CRFRNN_INLINE void take(int64_t row, const P* sliced, P* x, const Seen& seen) const {
    const int64_t pixel = pixel_of[row];
    P other[Packs<NP>::capacity];
    if constexpr (common) {
      packs.load(scattered + pixel * packs.step(), other);
      const P scale = P::set(other_scale ? other_scale[row] : 1.f);
      for (int b = 0; b < packs; ++b) other[b] = other[b] * scale;
      seen(first, sliced);
      seen(1 - first, other);
      for (int b = 0; b < packs; ++b)
        x[b] = fresh ? P::fma(weight[b], sliced[b], other_weight[b] * other[b])
                     : P::fma(other_weight[b], other[b], P::fma(weight[b], sliced[b], x[b]));
    } else {
      for (int b = 0; fresh && b < packs; ++b) x[b] = P::zero();
      for (int64_t m = 0; m < kernels; ++m) {
        const P* h = message(m, row, pixel, sliced, other);
        transforms[m].template add<NP>(h, packs, x);
        seen(m, h);
      }
    }
  }

  // Narrow rows in the common case: the parts of `sliced` and of the result belong to the rows from `row` on.
  CRFRNN_INLINE P take_parts(int64_t row, P sliced, P x) const requires(NP < 0 && common) {
    P other = P::template rows<-NP>(
        [&](int g) CRFRNN_INLINE_LAMBDA { return scattered + int64_t{pixel_of[row + g]} * -NP; });
    const auto scale = [&](int g) CRFRNN_INLINE_LAMBDA { return other_scale + row + g; };
    if (other_scale) other = other * P::template spread<-NP>(scale);
    return P::fma(other_weight[0], other, P::fma(weight[0], sliced, x));
  }
  CRFRNN_INLINE void ask_parts(int64_t row) const requires(NP < 0) {
    for (int g = 0; g < Packs<NP>::together; ++g) {
      const int64_t later = row + g + far_ahead <= last ? row + g + far_ahead : row + g;
      prefetch(scattered + int64_t{pixel_of[later]} * -NP);
    }
  }

 private:
  // Pack b of the diagonal of A_m; narrow rows: in each part.
  static P diagonal(const Transform& transform, int b) {
    const float* of = transform.columns.template as<float>() + b * P::lanes;
    if constexpr (NP < 0) return P::template rows<-NP>([&](int) { return of; });
    return P::load(of);
  }

  CRFRNN_INLINE const P* message(int64_t m, int64_t row, int64_t pixel, const P* sliced, P* out) const {
    if (!rows[m]) return sliced;
    packs.load(rows[m] + pixel * packs.step(), out);
    if (!scales[m]) return out;
    const P factor = P::set(scales[m][row]);
    for (int b = 0; b < packs; ++b) out[b] = out[b] * factor;
    return out;
  }
};

// Whether the label of a row is known or the mask excludes its pixel.
template <bool common>
CRFRNN_INLINE bool is_held(const Problem& problem, int64_t pixel) {
  return !common && ((problem.mask && !problem.mask[pixel]) || (problem.clamp && problem.clamp[pixel] >= 0));
}

// Writes the known rows: one label, or zeros where the mask excludes the pixel. Kept apart from the common
// path.
template <int NP>
void write_known(const Problem& problem, int64_t pixel, const Packs<NP>& packs, float* out) {
  const bool valid = !problem.mask || problem.mask[pixel];
  for (int64_t l = 0; l < packs.labels; ++l) out[l] = valid && problem.clamp[pixel] == l ? 1.f : 0.f;
}

template <int NP, bool common = false>
CRFRNN_INLINE void write_marginals(const Problem& problem, int64_t pixel, const P* x, const Packs<NP>& packs,
                                   float* out) {
  if (is_held<common>(problem, pixel)) return write_known(problem, pixel, packs, out);
  softmax(x, packs, out);
}

}  // namespace crfrnn::CRFRNN_ISA
