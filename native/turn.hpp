// SPDX-License-Identifier: MIT
// From the lattice rows of one iteration to those of the next without leaving the cache. For one slab after another:
//   finish the blur, slice, let `body` make the new row of every point, splat it, begin the next blur.
#pragma once

#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {

template <class T, int NB>
struct Turn {
  using S = Sweep<T, NB>;
  static constexpr int64_t width = S::width;

  const S& sweep;
  Buffer edges;  // two slabs for each chunk: what it must leave to its neighbour

  explicit Turn(const S& s)
      : sweep(s), edges(static_cast<size_t>(chunks(s) * 2 * s.slab_rows * width) * sizeof(T)) {}

  // Chunks are whole parts, so that sums by parts do not depend on the number of threads.
  static int64_t chunks(const S& sweep) { return sweep.threads <= 1 ? 1 : (4 * sweep.threads < fixed_parts ? 4 * sweep.threads : fixed_parts); }
  int64_t part_slab(int64_t part) const { return chunk_slab(sweep.lattice, part, fixed_parts); }
  int64_t first_part(int64_t chunk) const { return fixed_parts * chunk / chunks(sweep); }
  T* edge(int64_t chunk, int i) const { return edges.as<T>() + (2 * chunk + i) * sweep.slab_rows * width; }

  // rows += more, for a slab
  void add(int64_t slab, const T* more, T* rows) const {
    const int64_t n = (sweep.lattice.slab_vertex[slab + 1] - sweep.lattice.slab_vertex[slab]) * NB;
    for (int64_t i = 0; i < n; ++i) {
      using P = Pack<T>;
      (P::load(rows + i * P::lanes) + P::load(more + i * P::lanes)).store(rows + i * P::lanes);
    }
  }

  // body(p, packs, part) takes what was sliced for a point; source(p, packs) gives its new row. `in` and `out` hold rows
  // after the first sweep; without `out` this is the last iteration.
  template <int V, class Body, class Source>
  void operator()(const T* in, T* out, const Body& body, const Source& source) const {
    const int64_t count = chunks(sweep);
    parallel_for(count, sweep.threads, [&](int64_t chunk, int worker) { run<V>(chunk, worker, in, out, body, source); });
    if (!out) return;
    // The first slab of a chunk also gets points from the last simplices of the chunk before it.
    parallel_for(count, sweep.threads, [&](int64_t chunk, int worker) {
      const int64_t low = part_slab(first_part(chunk)), high = part_slab(first_part(chunk + 1));
      if (low == high || low == 0) return;
      int64_t before = chunk - 1;
      while (part_slab(first_part(before)) == low) --before;
      T* rows = edge(chunk, 0);
      add(low, edge(before, 1), rows);
      T* spare = sweep.slab_buffer(worker, 0);
      sweep.blur_before(low, rows, spare, sweep.zero_row(worker), out);
    });
  }

  template <int V, class Body, class Source>
  void run(int64_t chunk, int worker, const T* in, T* out, const Body& body, const Source& source) const {
    const Lattice& lattice = sweep.lattice;
    const int64_t low = part_slab(first_part(chunk)), high = part_slab(first_part(chunk + 1));
    if (low == high) return;
    typename S::Crossing crossing(sweep, in, low, worker);
    T* finished[2] = {sweep.slab_buffer(worker, 5), sweep.slab_buffer(worker, 6)};
    T* coming[2] = {sweep.slab_buffer(worker, 7), sweep.slab_buffer(worker, 8)};
    const T* zero = sweep.zero_row(worker);
    crossing.finish(low, finished[low % 2]);
    int64_t part = first_part(chunk);
    for (int64_t slab = low; slab < high; ++slab) {
      while (part_slab(part + 1) <= slab) ++part;
      const bool top = slab + 1 == lattice.slabs;
      if (!top) crossing.finish(slab + 1, finished[(slab + 1) % 2]);
      const int64_t base = lattice.slab_vertex[slab], border = lattice.slab_vertex[slab + 1];
      const T* own_rows = finished[slab % 2] - base * width;
      const T* next_rows = finished[(slab + 1) % 2] - border * width;
      sweep.template slice<V>(lattice.slab_simplex[slab], lattice.slab_simplex[slab + 1], own_rows, next_rows, border,
                              [&](int64_t p, Pack<T>* sum) { body(p, sum, static_cast<int>(part)); });
      if (!out) continue;
      // Points of this slab's simplices, apart from those of the slab before: the order of the sums is the same in any chunk.
      T* own = slab == low && low > 0 ? edge(chunk, 0) : crossing.left;
      T* next = slab + 1 == high && !top ? edge(chunk, 1) : coming[(slab + 1) % 2];
      sweep.clear(slab, own);
      if (!top) sweep.clear(slab + 1, next);
      sweep.template splat<V>(slab, source, own, top ? nullptr : next);
      if (slab == low && low > 0) continue;
      if (slab > 0) add(slab, coming[slab % 2], own);
      T* spare = crossing.right;
      sweep.blur_before(slab, own, spare, zero, out);
    }
  }
};

}  // namespace crfrnn::CRFRNN_ISA
