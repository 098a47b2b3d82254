// SPDX-License-Identifier: MIT
// From the lattice rows of one iteration to those of the next without leaving the cache. For one slab after another:
//   finish the blur, slice, let `body` make the new row of every point, splat it, begin the next blur.
#pragma once

#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

template <class T, int NB>
struct Turn {
  using S = Sweep<T, NB>;

  const S& sweep;
  Buffer edges;  // a slab for each chunk: what its last simplices leave to the chunk after it

  explicit Turn(const S& s) : sweep(s), edges(static_cast<size_t>(chunks(s) * s.slab_rows * s.shape.width) * sizeof(T)) {}

  // Chunks are whole parts, so that sums by parts do not depend on the number of threads. One for each thread: where two meet,
  // the slabs around are blurred twice.
  static int64_t chunks(const S& sweep) {
    if (sweep.threads <= 1) return 1;
    return sweep.threads < fixed_parts ? sweep.threads : fixed_parts;
  }
  int64_t part_slab(int64_t part) const { return chunk_slab(sweep.lattice, part, fixed_parts); }
  int64_t first_part(int64_t chunk) const { return fixed_parts * chunk / chunks(sweep); }
  T* edge(int64_t chunk) const { return edges.as<T>() + chunk * sweep.slab_rows * sweep.shape.width; }

  // body(p, packs, part) takes what was sliced for a point; source(p, packs) gives its new row. `in` and `out` hold rows
  // after the first sweep; without `out` this is the last iteration.
  template <int V, class Body, class Source>
  void operator()(const T* in, T* out, const Body& body, const Source& source) const {
    const int64_t count = chunks(sweep);
    parallel_for(count, sweep.threads, [&](int64_t chunk, int worker) { run<V>(chunk, worker, in, out, body, source); });
    if (!out) return;
    // A slab takes the points of the slab below before its own: so the first one of a chunk waits for the chunk before.
    parallel_for(count, sweep.threads, [&](int64_t chunk, int) {
      const int64_t low = part_slab(first_part(chunk)), high = part_slab(first_part(chunk + 1));
      if (low == high || low == 0) return;
      int64_t before = chunk - 1;
      while (part_slab(first_part(before)) == low) --before;
      T* rows = sweep.rows_of(low, out);
      sweep.copy(low, edge(before), rows);
      sweep.template splat<V>(low, source, rows, nullptr);
      sweep.blur_before(low, rows);
    });
  }

  template <int V, class Body, class Source>
  void run(int64_t chunk, int worker, const T* in, T* out, const Body& body, const Source& source) const {
    const Lattice& lattice = sweep.lattice;
    const int64_t low = part_slab(first_part(chunk)), high = part_slab(first_part(chunk + 1));
    if (low == high) return;
    typename S::Crossing crossing(sweep, in, low, worker);
    T* finished[2] = {sweep.slab_buffer(worker, 3), sweep.slab_buffer(worker, 4)};
    crossing.finish(low, finished[low % 2]);
    if (low == 0 && out) sweep.clear(0, out);
    int64_t part = first_part(chunk);
    for (int64_t slab = low; slab < high; ++slab) {
      while (part_slab(part + 1) <= slab) ++part;
      const bool top = slab + 1 == lattice.slabs;
      if (!top) crossing.finish(slab + 1, finished[(slab + 1) % 2]);
      const int64_t base = lattice.slab_vertex[slab], border = lattice.slab_vertex[slab + 1];
      const T* own_rows = finished[slab % 2] - base * sweep.shape.width;
      const T* next_rows = finished[(slab + 1) % 2] - border * sweep.shape.width;
      sweep.template slice<V>(lattice.slab_simplex[slab], lattice.slab_simplex[slab + 1], own_rows, next_rows, border,
                              [&](int64_t p, Pack<T>* sum) CRFRNN_INLINE_LAMBDA { body(p, sum, static_cast<int>(part)); });
      if (!out) continue;
      const bool waits = slab == low && low > 0;
      T* own = waits ? nullptr : sweep.rows_of(slab, out);
      T* next = top ? nullptr : (slab + 1 == high ? edge(chunk) : sweep.rows_of(slab + 1, out));
      if (next) sweep.clear(slab + 1, next);
      sweep.template splat<V>(slab, source, own, next);
      if (!waits) sweep.blur_before(slab, own);
    }
  }
};

}  // namespace crfrnn::CRFRNN_ISA
