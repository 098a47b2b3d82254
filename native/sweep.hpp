// SPDX-License-Identifier: MIT
// The filter as two sweeps over the slabs of a lattice (lattice.hpp says what a slab is):
//   first   splat a slab and blur the axes before the crossing pair, all inside the slab
//   second  blur the two axes that cross slabs, then the axes after them, inside the slab again
// and a slice over the simplices. Every row is a sum in an order fixed by the lattice alone, so neither the number of
// threads nor the chunking can change a bit. Rows are NB packs wide.
#pragma once

#include "buffer.hpp"
#include "lattice.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "slabs.hpp"

namespace crfrnn::CRFRNN_ISA {

template <class T, int NB>
struct Sweep {
  using P = Pack<T>;
  static constexpr int width = NB * P::lanes;  // scalars in a row

  const Lattice& lattice;
  const T* weights;
  Axes axes;
  int threads;
  int64_t slab_rows;
  T* scratch;  // slab_buffers slabs and a row of zeros for each worker

  static constexpr int slab_buffers = 9;
  static size_t worker_scalars(int64_t rows) { return static_cast<size_t>((slab_buffers * rows + 1) * width); }
  static size_t scratch_bytes(const Lattice& lattice, int threads) {
    return static_cast<size_t>(threads < 1 ? 1 : threads) * worker_scalars(largest_slab(lattice)) * sizeof(T);
  }

  // `memory`: scratch_bytes of it, for as long as this lives.
  Sweep(const Lattice& l, const T* w, bool reverse, int threads_, T* memory)
      : lattice(l), weights(w), axes(l, reverse), threads(threads_ < 1 ? 1 : threads_), slab_rows(largest_slab(l)),
        scratch(memory) {}

  T* slab_buffer(int worker, int i) const {
    return scratch + static_cast<size_t>(worker) * worker_scalars(slab_rows) + static_cast<size_t>(i * slab_rows * width);
  }
  const T* zero_row(int worker) const {
    T* row = slab_buffer(worker, slab_buffers);
    for (int b = 0; b < NB; ++b) P::zero().store(row + b * P::lanes);
    return row;
  }

  CRFRNN_INLINE void blur_row(const T* self, const T* a, const T* b, T* out) const {
    const P centre = P::set(T(0.5)), side = P::set(T(0.25));
    for (int i = 0; i < NB; ++i) {
      const int at = i * P::lanes;
      P::fma(side, P::load(a + at) + P::load(b + at), centre * P::load(self + at)).store(out + at);
    }
  }

  // One axis whose neighbours lie in the slab itself.
  void blur_inside(int axis, int64_t slab, const T* from, T* to, const T* zero) const {
    const int64_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
    const int32_t absent = static_cast<int32_t>(lattice.vertices);
    const int32_t* plus = lattice.neighbour + 2 * axis * lattice.vertices;
    const int32_t* minus = plus + lattice.vertices;
    for (int64_t v = begin; v < end; ++v) {
      const int32_t a = plus[v], b = minus[v];
      blur_row(from + (v - begin) * width, a == absent ? zero : from + (a - begin) * width,
               b == absent ? zero : from + (b - begin) * width, to + (v - begin) * width);
    }
  }

  // Adds the points of the simplices of `slab` to its own rows and to those of the next slab; null: not wanted here.
  template <int V, class Source>
  void splat(int64_t slab, const Source& source, T* own, T* next) const {
    const int corners = V ? V : lattice.dim + 1;
    const int64_t base = lattice.slab_vertex[slab], border = lattice.slab_vertex[slab + 1];
    for (int64_t s = lattice.slab_simplex[slab]; s < lattice.slab_simplex[slab + 1]; ++s) {
      P sum[V ? V : 9][NB];
      for (int k = 0; k < corners; ++k)
        for (int b = 0; b < NB; ++b) sum[k][b] = P::zero();
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        P value[NB];
        source(p, value);
        const T* w = weights + p * corners;
        for (int k = 0; k < corners; ++k) {
          const P wk = P::set(w[k]);
          for (int b = 0; b < NB; ++b) sum[k][b] = P::fma(wk, value[b], sum[k][b]);
        }
      }
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      for (int k = 0; k < corners; ++k) {
        const int64_t v = vertex[k];
        T* target = v < border ? own : next;
        if (!target) continue;
        T* row = target + (v - (v < border ? base : border)) * width;
        for (int b = 0; b < NB; ++b) (P::load(row + b * P::lanes) + sum[k][b]).store(row + b * P::lanes);
      }
    }
  }

  template <int V, class Source>
  void first(int64_t low, int64_t high, int worker, const Source& source, T* out) const {
    T* current = slab_buffer(worker, 0);
    T* next = slab_buffer(worker, 1);
    T* spare = slab_buffer(worker, 2);
    const T* zero = zero_row(worker);
    clear(low, current);
    if (low > 0) splat<V>(low - 1, source, nullptr, current);
    for (int64_t slab = low; slab < high; ++slab) {
      const bool last = slab + 1 == high;
      if (!last) clear(slab + 1, next);
      splat<V>(slab, source, current, last ? nullptr : next);
      blur_before(slab, current, spare, zero, out);
      T* swap = current;
      current = next;
      next = swap;
    }
  }

  // The axes before the crossing pair: from a slab's splatted rows to its place in `out`, the rows of all slabs.
  void blur_before(int64_t slab, T* rows, T* spare, const T* zero, T* out) const {
    blur_all_inside(axes.before, axes.befores, slab, rows, spare, zero, out + lattice.slab_vertex[slab] * width);
  }

  // Blurs the pair of axes that cross slabs, and the axes after them, for one slab after another. The slabs around it,
  // blurred along the first axis of the pair, are kept in a ring.
  struct Crossing {
    const Sweep& sweep;
    const T* in;
    T *ring[3], *left, *right;
    const T* zero;
    int64_t ready;  // the first slab that is not in the ring yet

    Crossing(const Sweep& s, const T* in_, int64_t first_slab, int worker)
        : sweep(s), in(in_), ring{s.slab_buffer(worker, 0), s.slab_buffer(worker, 1), s.slab_buffer(worker, 2)},
          left(s.slab_buffer(worker, 3)), right(s.slab_buffer(worker, 4)), zero(s.zero_row(worker)),
          ready(first_slab > 0 ? first_slab - 1 : 0) {}

    void along_first(int64_t slab) {
      const Lattice& lattice = sweep.lattice;
      const int64_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
      const int32_t absent = static_cast<int32_t>(lattice.vertices);
      const int32_t* plus = lattice.neighbour + 2 * sweep.axes.first * lattice.vertices;
      const int32_t* minus = plus + lattice.vertices;
      T* to = ring[slab % 3];
      for (int64_t v = begin; v < end; ++v) {
        const int32_t a = plus[v], b = minus[v];
        sweep.blur_row(in + v * width, a == absent ? zero : in + int64_t{a} * width,
                       b == absent ? zero : in + int64_t{b} * width, to + (v - begin) * width);
      }
    }

    // Slabs are asked for in order; `out` takes the finished rows of this one.
    void finish(int64_t slab, T* out) {
      const Lattice& lattice = sweep.lattice;
      for (; ready < lattice.slabs && ready <= slab + 1; ++ready) along_first(ready);
      const int64_t begin = lattice.slab_vertex[slab], end = lattice.slab_vertex[slab + 1];
      const int32_t absent = static_cast<int32_t>(lattice.vertices);
      const int32_t* plus = lattice.neighbour + 2 * sweep.axes.second * lattice.vertices;
      const int32_t* minus = plus + lattice.vertices;
      // A step along axis `lead` goes one slab down, along lead + 1 one slab up.
      const int direction = sweep.axes.lead_first ? 1 : -1;
      const int64_t up = slab + direction, down = slab - direction;
      const int64_t up_base = up >= 0 && up < lattice.slabs ? lattice.slab_vertex[up] : 0;
      const int64_t down_base = down >= 0 && down < lattice.slabs ? lattice.slab_vertex[down] : 0;
      const T* here = ring[slab % 3];
      const T* above = ring[(up + 3) % 3];
      const T* below = ring[(down + 3) % 3];
      T* current = sweep.axes.afters ? left : out;
      T* spare = right;
      for (int64_t v = begin; v < end; ++v) {
        const int32_t a = plus[v], b = minus[v];
        sweep.blur_row(here + (v - begin) * width, a == absent ? zero : above + (a - up_base) * width,
                       b == absent ? zero : below + (b - down_base) * width, current + (v - begin) * width);
      }
      if (sweep.axes.afters) sweep.blur_all_inside(sweep.axes.after, sweep.axes.afters, slab, current, spare, zero, out);
    }
  };

  void second(int64_t low, int64_t high, int worker, const T* in, T* out) const {
    Crossing crossing(*this, in, low, worker);
    for (int64_t slab = low; slab < high; ++slab) crossing.finish(slab, out + lattice.slab_vertex[slab] * width);
  }

  // Several axes inside one slab, back and forth between two buffers; the last one writes the finished rows.
  void blur_all_inside(const int* list, int count, int64_t slab, T* current, T* spare, const T* zero, T* out) const {
    for (int i = 0; i + 1 < count; ++i) {
      blur_inside(list[i], slab, current, spare, zero);
      T* swap = current;
      current = spare;
      spare = swap;
    }
    if (count) return blur_inside(list[count - 1], slab, current, out, zero);
    const int64_t n = (lattice.slab_vertex[slab + 1] - lattice.slab_vertex[slab]) * NB;
    for (int64_t i = 0; i < n; ++i) P::load(current + i * P::lanes).store(out + i * P::lanes);
  }

  void clear(int64_t slab, T* rows) const {
    const int64_t n = lattice.slab_vertex[slab + 1] - lattice.slab_vertex[slab];
    for (int64_t i = 0; i < n * NB; ++i) P::zero().store(rows + i * P::lanes);
  }

  template <int V, class Source>
  void splat_and_begin(const Source& source, T* out) const {
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int worker) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low < high) first<V>(low, high, worker, source, out);
    });
  }

  // Splat and blur: `out` holds the finished rows, `between` the rows after the first sweep.
  template <int V, class Source>
  void spread(const Source& source, T* between, T* out) const {
    splat_and_begin<V>(source, between);
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int worker) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low < high) second(low, high, worker, between, out);
    });
  }

  // sink(p, packs) for the points of simplices [begin, end); packs hold Σ_k w_k row_k. Vertices before `border` have their
  // rows in `own`, the others in `next`, both counted from vertex 0.
  template <int V, class Sink>
  CRFRNN_INLINE void slice(int64_t begin, int64_t end, const T* own, const T* next, int64_t border, const Sink& sink) const {
    const int corners = V ? V : lattice.dim + 1;
    const auto row_of = [&](int64_t v) { return (v < border ? own : next) + v * width; };
    for (int64_t s = begin; s < end; ++s) {
      P row[V ? V : 9][NB];
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      if (s + 4 < end)
        for (int k = 0; k < corners; ++k) prefetch_bytes(row_of(vertex[4 * corners + k]), width * sizeof(T));
      for (int k = 0; k < corners; ++k)
        for (int b = 0; b < NB; ++b) row[k][b] = P::load(row_of(vertex[k]) + b * P::lanes);
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        const T* w = weights + p * corners;
        P sum[NB];
        for (int b = 0; b < NB; ++b) sum[b] = P::set(w[0]) * row[0][b];
        for (int k = 1; k < corners; ++k) {
          const P wk = P::set(w[k]);
          for (int b = 0; b < NB; ++b) sum[b] = P::fma(wk, row[k][b], sum[b]);
        }
        sink(p, sum);
      }
    }
  }
  template <int V, class Sink>
  CRFRNN_INLINE void slice(int64_t begin, int64_t end, const T* rows, const Sink& sink) const {
    slice<V>(begin, end, rows, rows, lattice.vertices, sink);
  }

  // body(begin, end, part) over all simplices, in a fixed number of parts that hold about as many points each.
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
    parallel_for(parts, threads, [&](int64_t i, int) { body(first_simplex(i), first_simplex(i + 1), static_cast<int>(i)); });
  }
};

// Calls f with the number of corners as a constant for the common dimensions, 0 (read at run time) for the others.
template <class F>
CRFRNN_INLINE void with_corners(int dim, const F& f) {
  switch (dim) {
    case 2: return f.template operator()<3>();
    case 3: return f.template operator()<4>();
    case 5: return f.template operator()<6>();
    default: return f.template operator()<0>();
  }
}

}  // namespace crfrnn::CRFRNN_ISA
