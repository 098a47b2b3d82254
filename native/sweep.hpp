// SPDX-License-Identifier: MIT
// The filter as two sweeps over the slabs of a lattice (slabs are defined in lattice.hpp):
//   first   splat a slab and blur the axes before the crossing pair, all inside the slab
//   second  blur the two axes that cross slabs, then the remaining axes, again inside the slab
// followed by a slice over the simplices. Every row is summed in an order that depends only on the lattice,
// so the result is identical to the last bit for any number of threads and any chunking. Rows have NB packs;
// NB = 0 means that the number of packs is a runtime value (row_shape.hpp).
#pragma once

#include <algorithm>
#include <bit>

#include "buffer.hpp"
#include "embed.hpp"
#include "lattice.hpp"
#include "parallel.hpp"
#include "row_shape.hpp"
#include "slabs.hpp"

namespace crfrnn::CRFRNN_ISA {

template <class T, int NB>
struct Sweep {
  using P = Pack<T>;
  using Shape = RowShape<T, NB>;

  const Lattice& lattice;
  const T* weights;
  Shape shape;
  Axes axes;
  int threads;
  bool by_simplex;  // points are summed per simplex first, then into rows; otherwise directly
  int64_t slab_rows;
  T* scratch;  // for each worker: slab_buffers slabs and a row of zeros

  // Two for finished slabs, the others for the ring of Crossing. With groups, one more to copy a slab that is
  // blurred in place.
  static int slab_buffers(const Lattice& lattice) { return lattice.together > 1 ? 8 : 5; }
  static constexpr int most_ring = 5, ring_buffer = 2, copy_buffer = 7;
  static size_t worker_scalars(const Lattice& lattice, int64_t rows, int64_t width) {
    return static_cast<size_t>(((slab_buffers(lattice) * rows + 1) * width + P::lanes - 1) / P::lanes *
                               P::lanes);
  }
  static size_t scratch_bytes(const Lattice& lattice, int64_t columns, int threads) {
    return static_cast<size_t>(threads < 1 ? 1 : threads) *
           worker_scalars(lattice, largest_slab(lattice), Shape::width_of(columns)) * sizeof(T);
  }

  // columns: number of columns used in a row. narrow: largest number of packs for which points are summed per
  // simplex, which is faster while the sums fit in registers. `memory`: scratch_bytes() bytes that must
  // outlive this object.
  Sweep(const Lattice& l, const T* w, int64_t columns, int narrow, bool reverse, int threads_, T* memory)
      : lattice(l), weights(w), shape(columns), axes(l, reverse), threads(threads_ < 1 ? 1 : threads_),
        by_simplex(shape.packs() <= narrow), slab_rows(largest_slab(l)), scratch(memory) {}

  T* slab_buffer(int worker, int i) const {
    return scratch + static_cast<size_t>(worker) * worker_scalars(lattice, slab_rows, shape.width) +
           static_cast<size_t>(i * slab_rows * shape.width);
  }
  const T* zero_row(int worker) const {
    T* row = slab_buffer(worker, slab_buffers(lattice));
    for (int b = 0; b < shape.packs(); ++b) shape.store(P::zero(), row, b);
    return row;
  }

  T* rows_of(int64_t slab, T* rows) const { return rows + lattice.slab_vertex[slab] * shape.width; }

  // Blurs one axis whose neighbours lie in other slabs. `self` and `out` are the rows of the slab itself; the
  // rows of a neighbour are in `above` or `below`, both indexed from vertex 0. Missing neighbours are
  // unpredictable, so the row is selected from a table instead of by a branch.
  void blur_across(int axis, int64_t slab, const T* self, const T* above, const T* below, const T* zero,
                   T* out) const {
    const int64_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
    const int32_t absent = static_cast<int32_t>(lattice.vertices);
    const int32_t* plus = lattice.neighbour + 2 * axis * lattice.vertices;
    const int32_t* minus = plus + lattice.vertices;
    const Shape row = shape;
    const T* const none = zero - lattice.vertices * row.step();
    const T *const up[2] = {above, none}, *const down[2] = {below, none};
    const P half = P::set(T(0.5));
    for (int64_t v = begin; v < end; ++v, self += row.step(), out += row.step()) {
      const T* a = up[plus[v] == absent] + plus[v] * row.step();
      const T* b = down[minus[v] == absent] + minus[v] * row.step();
      if constexpr (NB < 0) {
        prefetch(plus + v + far_ahead);
        prefetch(minus + v + far_ahead);
        prefetch(self + far_ahead * row.step());
        prefetch(a + far_ahead * row.step());
      }
      for (int i = 0; i < row.packs(); ++i)
        row.store(P::fma(half, row.load(a, i) + row.load(b, i), row.load(self, i)), out, i);
    }
  }

  // Blurs one axis whose neighbours lie in the same slab, in place. Along each run of neighbours, every row
  // is read and written once. Vertices without neighbours do not change and are skipped.
  void blur_inside(int axis, int64_t slab, T* rows) const {
    const Lattice::Chains chains = lattice.chains(axis, slab);
    if (chains.begin == chains.end) return;
    const Shape like = shape;
    const P half = P::set(T(0.5)), yes = P::set(T(1));
    static constexpr T link[2] = {1, 0};  // a table: the compiler would make an unpredictable branch
    const auto row_of = [&](int32_t entry) { return rows + (entry ^ (entry >> 31)) * like.step(); };
    P before[Shape::capacity], here[Shape::capacity];
    T* row = row_of(*chains.begin);
    for (int b = 0; b < like.packs(); ++b) before[b] = P::zero(), here[b] = like.load(row, b);
    for (const int32_t* at = chains.begin; at < chains.end; ++at) {
      T* following = row_of(at[at + 1 < chains.end]);
      if constexpr (NB < 0) prefetch(at + far_ahead);
      const P linked = P::set(link[static_cast<uint32_t>(*at) >> 31]);
      for (int b = 0; b < like.packs(); ++b) {
        const P after = like.load(following, b);
        like.store(P::fma(half, before[b] + P::if_equal(linked, yes, after), here[b]), row, b);
        before[b] = P::if_equal(linked, yes, here[b]);
        here[b] = after;
      }
      row = following;
    }
  }

  // Blurs one group of axes, from the rows of this slab and the adjacent ones to `out`. `in` returns the rows
  // of a slab, indexed from vertex 0. The number of links of a vertex is unpredictable, so the loop iterates
  // over the set bits of its mask instead of testing every offset.
  template <class In>
  void blur_group(int which, int64_t slab, const In& in, T* out) const {
    const AxisGroup group = lattice.group(which);
    const int64_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
    const Shape like = shape;
    const T* rows[AxisGroup::most_offsets];
    T share[AxisGroup::most_offsets];
    for (int n = 0; n < group.offsets(); ++n) {
      rows[n] = in(slab + group.slabs_up(n, lattice.lead));
      share[n] = T(1) / static_cast<T>(1 << group.moves(n));
    }
    const int32_t* mask = lattice.link_mask + which * lattice.vertices;
    const int32_t* link = lattice.link + lattice.slab_link[which * lattice.slabs + slab];
    for (int64_t v = begin; v < end; ++v, out += like.step()) {
      const T* self = rows[0] + v * like.step();
      uint32_t left = static_cast<uint32_t>(mask[v]);
      if constexpr (NB != 0) {
        P sum[Shape::capacity];
        for (int b = 0; b < like.packs(); ++b) sum[b] = like.load(self, b);
        for (; left; left &= left - 1, ++link) {
          const int n = std::countr_zero(left);
          const T* row = rows[n] + *link * like.step();
          const P factor = P::set(share[n]);
          for (int b = 0; b < like.packs(); ++b) sum[b] = P::fma(factor, like.load(row, b), sum[b]);
        }
        for (int b = 0; b < like.packs(); ++b) like.store(sum[b], out, b);
      } else {
        const T* row[AxisGroup::most_offsets];
        P factor[AxisGroup::most_offsets];
        int count = 0;
        for (; left; left &= left - 1, ++count) {
          const int n = std::countr_zero(left);
          row[count] = rows[n] + *link++ * like.step();
          factor[count] = P::set(share[n]);
        }
        for (int b = 0; b < like.packs(); ++b) {
          P sum = like.load(self, b);
          for (int i = 0; i < count; ++i) sum = P::fma(factor[i], like.load(row[i], b), sum);
          like.store(sum, out, b);
        }
      }
    }
  }

  // Adds the points of the simplices of `slab` to its own rows and to those of the next slab; a null pointer
  // skips that slab. The two are usually contiguous in memory, in which case the corners need no check of
  // which slab they belong to.
  template <int V, class Source>
  void splat(int64_t slab, const Source& source, T* own, T* next) const {
    const int64_t base = lattice.slab_vertex[slab], border = lattice.slab_vertex[slab + 1];
    if (own && next == own + (border - base) * shape.width)
      return splat_to<V>(slab, source, [=, width = shape.step()](int64_t v) CRFRNN_INLINE_LAMBDA {
        return own + (v - base) * width;
      });
    splat_to<V>(slab, source, [=, width = shape.step()](int64_t v) CRFRNN_INLINE_LAMBDA {
      T* rows = v < border ? own : next;
      return rows ? rows + (v - (v < border ? base : border)) * width : nullptr;
    });
  }

  template <int V, class Source, class RowOf>
  CRFRNN_INLINE void splat_to(int64_t slab, const Source& source, const RowOf& row_of) const requires(NB != 0)
  {
    const int corners = V ? V : lattice.dim + 1;
    const int64_t end = lattice.slab_simplex[slab + 1];
    const Shape like = shape;
    int64_t p = lattice.simplex_start[lattice.slab_simplex[slab]];
    for (int64_t s = lattice.slab_simplex[slab]; s < end; ++s) {
      P sum[V ? V : max_dim + 1][Shape::capacity], value[Shape::capacity];
      source(p, value);
      for (int k = 0; k < corners; ++k) {
        const P wk = P::set(weights[p * corners + k]);
        for (int b = 0; b < like.packs(); ++b) sum[k][b] = wk * value[b];
      }
      for (++p; p < lattice.simplex_start[s + 1]; ++p) {
        source(p, value);
        for (int k = 0; k < corners; ++k) {
          const P wk = P::set(weights[p * corners + k]);
          for (int b = 0; b < like.packs(); ++b) sum[k][b] = P::fma(wk, value[b], sum[k][b]);
        }
      }
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      for (int k = 0; k < corners; ++k) {
        T* row = row_of(vertex[k]);
        if (row)
          for (int b = 0; b < like.packs(); ++b) like.store(like.load(row, b) + sum[k][b], row, b);
      }
    }
  }

  // Adds directly to the rows, which are in the cache: the sums of this many packs would not fit in the
  // registers.
  template <int V, class Source, class RowOf>
  CRFRNN_INLINE void splat_to(int64_t slab, const Source& source, const RowOf& row_of) const requires(NB == 0)
  {
    const int corners = V ? V : lattice.dim + 1;
    const Shape like = shape;
    if constexpr (!specialised)
      if (by_simplex) return splat_by_simplex(slab, source, row_of);
    for (int64_t s = lattice.slab_simplex[slab]; s < lattice.slab_simplex[slab + 1]; ++s)
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        P value[Shape::capacity];
        source(p, value);
        for (int k = 0; k < corners; ++k) {
          T* row = row_of(lattice.simplex_vertex[s * corners + k]);
          if (!row) continue;
          const P wk = P::set(weights[p * corners + k]);
          for (int b = 0; b < like.packs(); ++b) like.store(P::fma(wk, value[b], like.load(row, b)), row, b);
        }
      }
  }

  // The same sums as splat_to with a constant number of packs, in the same order.
  template <class Source, class RowOf>
  void splat_by_simplex(int64_t slab, const Source& source, const RowOf& row_of) const {
    const int corners = lattice.dim + 1;
    const Shape like = shape;
    for (int64_t s = lattice.slab_simplex[slab]; s < lattice.slab_simplex[slab + 1]; ++s) {
      P sum[max_dim + 1][narrow_packs], value[Shape::capacity];
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        source(p, value);
        for (int k = 0; k < corners; ++k) {
          const P wk = P::set(weights[p * corners + k]);
          for (int b = 0; b < like.packs(); ++b)
            sum[k][b] = p == lattice.simplex_start[s] ? wk * value[b] : P::fma(wk, value[b], sum[k][b]);
        }
      }
      for (int k = 0; k < corners; ++k) {
        T* row = row_of(lattice.simplex_vertex[s * corners + k]);
        if (!row) continue;
        for (int b = 0; b < like.packs(); ++b) like.store(like.load(row, b) + sum[k][b], row, b);
      }
    }
  }

  template <int V, class Source>
  void first(int64_t low, int64_t high, int worker, const Source& source, T* out) const {
    clear(low, rows_of(low, out));
    if (low > 0) splat<V>(low - 1, source, nullptr, rows_of(low, out));
    for (int64_t slab = low; slab < high; ++slab) {
      check_stop();
      T* next = slab + 1 == high ? nullptr : rows_of(slab + 1, out);
      if (next) clear(slab + 1, next);
      splat<V>(slab, source, rows_of(slab, out), next);
      blur_before(slab, worker, rows_of(slab, out));
    }
  }

  // Blur the axes before and after the crossing pair: the rows of one slab, in place.
  void blur_before(int64_t slab, int worker, T* rows) const {
    for (int i = 0; i < axes.befores; ++i) blur_in_place(axes.before[i], slab, worker, rows);
  }
  void blur_after(int64_t slab, int worker, T* rows) const {
    for (int i = 0; i < axes.afters; ++i) blur_in_place(axes.after[i], slab, worker, rows);
  }
  void blur_in_place(int which, int64_t slab, int worker, T* rows) const {
    if (lattice.together == 1) return blur_inside(which, slab, rows);
    T* before = slab_buffer(worker, copy_buffer);
    copy(slab, rows, before);
    blur_group(
        which, slab, [=, base = lattice.slab_vertex[slab] * shape.width](int64_t) { return before - base; },
        rows);
  }

  // A step along axis `lead` goes one slab down, a step along lead + 1 one slab up.
  int64_t direction(int axis) const { return axis == lattice.lead ? -1 : 1; }

  // Blurs the pair of axes that cross slabs and the axes after them, slab by slab. A ring buffer holds the
  // surrounding slabs, already blurred along the first axis of the pair. `in` returns the rows of a slab,
  // indexed from vertex 0.
  template <class In>
  struct Crossing {
    const Sweep& sweep;
    In in;
    int worker;
    int64_t ring_size;
    T* ring[most_ring];
    const T* zero;
    int64_t ready;  // the first slab not yet in the ring

    Crossing(const Sweep& s, const In& in_, int64_t first_slab, int worker_)
        : sweep(s), in(in_), worker(worker_), ring_size(s.axes.reach_second + s.axes.ahead() + 1),
          zero(s.zero_row(worker)), ready(std::max<int64_t>(first_slab - s.axes.reach_second, 0)) {
      for (int i = 0; i < ring_size; ++i) ring[i] = s.slab_buffer(worker, ring_buffer + i);
    }

    void along_first(int64_t slab) {
      T* out = ring[slab % ring_size];
      if (sweep.lattice.together > 1) return sweep.blur_group(sweep.axes.first, slab, in, out);
      const int64_t direction = sweep.direction(sweep.axes.first);
      sweep.blur_across(sweep.axes.first, slab,
                        in(slab) + sweep.lattice.slab_vertex[slab] * sweep.shape.width, in(slab + direction),
                        in(slab - direction), zero, out);
    }
    // The rows of a slab in the ring, indexed from vertex 0. If the slab does not exist, no vertex has a
    // neighbour in it and the pointer is never dereferenced.
    const T* kept(int64_t slab) const {
      const bool any = slab >= 0 && slab < sweep.lattice.slabs;
      return ring[(slab + ring_size) % ring_size] -
             (any ? sweep.lattice.slab_vertex[slab] : 0) * sweep.shape.width;
    }

    // Slabs must be requested in order; `out` receives the finished rows of this slab.
    void finish(int64_t slab, T* out) {
      for (; ready < sweep.lattice.slabs && ready <= slab + sweep.axes.ahead(); ++ready) along_first(ready);
      if (sweep.lattice.together > 1) {
        sweep.blur_group(sweep.axes.second, slab, [this](int64_t from) { return kept(from); }, out);
      } else {
        const int64_t direction = sweep.direction(sweep.axes.second);
        sweep.blur_across(sweep.axes.second, slab, ring[slab % ring_size], kept(slab + direction),
                          kept(slab - direction), zero, out);
      }
      sweep.blur_after(slab, worker, out);
    }
  };

  void second(int64_t low, int64_t high, int worker, const T* in, T* out) const {
    const auto rows = [in](int64_t) { return in; };
    Crossing<decltype(rows)> crossing(*this, rows, low, worker);
    for (int64_t slab = low; slab < high; ++slab) {
      check_stop();
      crossing.finish(slab, out + lattice.slab_vertex[slab] * shape.width);
    }
  }

  void clear(int64_t slab, T* rows) const {
    const int64_t n = lattice.slab_vertex[slab + 1] - lattice.slab_vertex[slab];
    for (int64_t i = 0; i < n * shape.width; ++i) rows[i] = T(0);
  }

  void copy(int64_t slab, const T* from, T* to) const {
    const int64_t n = lattice.slab_vertex[slab + 1] - lattice.slab_vertex[slab];
    for (int64_t i = 0; i < n * shape.width; ++i) to[i] = from[i];
  }

  template <int V, class Source>
  void splat_and_begin(const Source& source, T* out) const {
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int worker) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low < high) first<V>(low, high, worker, source, out);
    });
  }

  // Splat and blur: `out` receives the finished rows, `between` the rows after the first sweep.
  template <int V, class Source>
  void spread(const Source& source, T* between, T* out) const {
    splat_and_begin<V>(source, between);
    finish_blur(between, out);
  }

  // The second sweep, after splat_and_begin: from `between` to the finished rows.
  void finish_blur(const T* between, T* out) const {
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int worker) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low < high) second(low, high, worker, between, out);
    });
  }

  // Calls sink(p, packs) for the points of simplices [begin, end), where packs hold Σ_k w_k row_k. The rows
  // of vertices before `border` are in `own`, the others in `next`, both indexed from vertex 0.
  template <int V, class Sink>
  CRFRNN_INLINE void slice(int64_t begin, int64_t end, const T* own, const T* next, int64_t border,
                           const Sink& sink) const requires(NB != 0) {
    const int corners = V ? V : lattice.dim + 1;
    const T* const rows[2] = {own, next};  // a table instead of an unpredictable branch
    const Shape like = shape;
    const auto row_of = [&](int64_t v) { return rows[v >= border] + v * like.step(); };
    for (int64_t s = begin; s < end; ++s) {
      P row[V ? V : max_dim + 1][Shape::capacity];
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      for (int k = 0; k < corners; ++k)
        for (int b = 0; b < like.packs(); ++b) row[k][b] = like.load(row_of(vertex[k]), b);
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        const T* w = weights + p * corners;
        P sum[Shape::capacity];
        for (int b = 0; b < like.packs(); ++b) sum[b] = P::set(w[0]) * row[0][b];
        for (int k = 1; k < corners; ++k) {
          const P wk = P::set(w[k]);
          for (int b = 0; b < like.packs(); ++b) sum[b] = P::fma(wk, row[k][b], sum[b]);
        }
        sink(p, sum);
      }
    }
  }

  // The rows of the corners are read from the cache again for every point.
  template <int V, class Sink>
  CRFRNN_INLINE void slice(int64_t begin, int64_t end, const T* own, const T* next, int64_t border,
                           const Sink& sink) const requires(NB == 0) {
    const int corners = V ? V : lattice.dim + 1;
    const Shape like = shape;
    for (int64_t s = begin; s < end; ++s) {
      const T* row[V ? V : max_dim + 1];
      for (int k = 0; k < corners; ++k) {
        const int64_t v = lattice.simplex_vertex[s * corners + k];
        row[k] = (v < border ? own : next) + v * like.step();
      }
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        P wk[V ? V : max_dim + 1], sum[Shape::capacity];
        for (int k = 0; k < corners; ++k) wk[k] = P::set(weights[p * corners + k]);
        for (int b = 0; b < like.packs(); ++b) {
          sum[b] = wk[0] * like.load(row[0], b);
          for (int k = 1; k < corners; ++k) sum[b] = P::fma(wk[k], like.load(row[k], b), sum[b]);
        }
        sink(p, sum);
      }
    }
  }

  template <int V, class Sink>
  CRFRNN_INLINE void slice(int64_t begin, int64_t end, const T* rows, const Sink& sink) const {
    slice<V>(begin, end, rows, rows, lattice.vertices, sink);
  }

  // Calls body(begin, end, part) over all simplices, in a fixed number of parts with about the same number of
  // points.
  template <class Body>
  void each_simplex_range(const Body& body) const {
    constexpr int64_t parts = fixed_parts;
    const auto first_simplex = [&](int64_t i) {
      const int64_t target = lattice.points * i / parts;
      int64_t low = 0, high = lattice.simplices;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (lattice.simplex_start[middle] < target)
          low = middle + 1;
        else
          high = middle;
      }
      return i == parts ? lattice.simplices : low;
    };
    parallel_for(parts, threads,
                 [&](int64_t i, int) { body(first_simplex(i), first_simplex(i + 1), static_cast<int>(i)); });
  }
};

// Calls f with the number of corners: a constant for the common dimensions, 0 (read at run time) for the
// others. Wide rows, where most of the work is in the packs, are specialised for five dimensions only, since
// every specialisation adds seconds of compile time.
template <int NB, class F>
CRFRNN_INLINE void with_corners(int dim, const F& f) {
  if constexpr (specialised && (NB == 1 || NB == 2 || NB < 0)) {
    if (dim == 2) return f.template operator()<3>();
    if (dim == 3) return f.template operator()<4>();
  }
  if constexpr (specialised)
    if (dim == 5) return f.template operator()<6>();
  f.template operator()<0>();
}

}  // namespace crfrnn::CRFRNN_ISA
