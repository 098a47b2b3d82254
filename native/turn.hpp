// SPDX-License-Identifier: MIT
// Computes the lattice rows of the next iteration from those of the current one without leaving the cache.
// For each slab in turn:
//   finish the blur, slice, let `body` compute the new row of every point, splat it, begin the next blur.
// The new rows overwrite the old ones: the rows of a slab are no longer read when the splat reaches it.
#pragma once

#include <cstring>

#include "narrow.hpp"

namespace crfrnn::CRFRNN_ISA {

template <class T, int NB, class Splat>
struct Turn {
  using S = Sweep<T, NB>;

  const S& sweep;
  const Splat& splat;  // splat(slab, own, next): splats the new rows of the points, see Sweep::splat
  T* rows;             // input: rows after the first sweep; output: those of the next iteration, if any
  bool goes_on;        // true except in the last iteration
  Buffer edges;        // one slab per chunk: contributions of its last simplices to the next chunk
  // copies of the old rows that a neighbouring chunk reads: table of pointers, and their memory
  Buffer spared, spared_rows;

  Turn(const S& s, const Splat& splat_, T* rows_, bool goes_on_)
      : sweep(s), splat(splat_), rows(rows_), goes_on(goes_on_),
        edges(static_cast<size_t>(chunks(s) * s.slab_rows * s.shape.width) * sizeof(T)),
        spared(static_cast<size_t>(s.lattice.slabs) * sizeof(T*)), spared_rows(spare()) {
    parallel_for(sweep.lattice.slabs, goes_on ? sweep.threads : 1, [&](int64_t slab, int) {
      T*& kept = spared.as<T*>()[slab];
      if (!kept) return;
      kept = spared_rows.as<T>() + (kept - rows);
      sweep.copy(slab, sweep.rows_of(slab, rows), kept);
    });
  }

  // Chunks consist of whole parts, so that sums over parts do not depend on the number of threads. One chunk
  // per thread: the slabs around each border between chunks are blurred twice.
  static int64_t chunks(const S& sweep) {
    if (sweep.threads <= 1) return 1;
    return sweep.threads < fixed_parts ? sweep.threads : fixed_parts;
  }
  int64_t part_slab(int64_t part) const { return chunk_slab(sweep.lattice, part, fixed_parts); }
  int64_t first_part(int64_t chunk) const { return fixed_parts * chunk / chunks(sweep); }
  int64_t first_slab(int64_t chunk) const { return part_slab(first_part(chunk)); }
  T* edge(int64_t chunk) const { return edges.as<T>() + chunk * sweep.slab_rows * sweep.shape.width; }

  // Marks the slabs outside a chunk that it reads, on both sides of each border; returns the bytes needed for
  // their copies.
  size_t spare() const {
    const Lattice& lattice = sweep.lattice;
    T** table = spared.as<T*>();
    for (int64_t slab = 0; slab < lattice.slabs; ++slab) table[slab] = nullptr;
    int64_t numbers = 0;
    for (int64_t chunk = 1; goes_on && chunk < chunks(sweep); ++chunk) {
      const int64_t border = first_slab(chunk), last = border + sweep.axes.above();
      for (int64_t slab = std::max<int64_t>(border - sweep.axes.below(), 0);
           slab < lattice.slabs && slab <= last; ++slab) {
        if (table[slab]) continue;
        table[slab] = rows + numbers;  // for now, the position of the copy
        numbers += (lattice.slab_vertex[slab + 1] - lattice.slab_vertex[slab]) * sweep.shape.width;
      }
    }
    return static_cast<size_t>(numbers) * sizeof(T);
  }

  // Calls body(p, packs, part) with the sliced packs of each point, or `common` instead of body where it
  // applies, so that one walk serves both. If the body has finish(begin, end, part), it is then called for
  // all points of a slab.
  template <int V, class Common, class Body>
  void operator()(bool fits, const Common& common, const Body& body) const {
    parallel_for(chunks(sweep), sweep.threads,
                 [&](int64_t chunk, int worker) { run<V>(chunk, worker, fits, common, body); });
    join();
  }

  // Runs after all chunks: a slab adds the points of the slab below before its own, so the first slab of each
  // chunk is completed here.
  void join() const {
    if (!goes_on) return;
    parallel_for(chunks(sweep), sweep.threads, [&](int64_t chunk, int worker) {
      const int64_t low = first_slab(chunk), high = first_slab(chunk + 1);
      if (low == high || low == 0) return;
      int64_t before = chunk - 1;
      while (first_slab(before) == low) --before;
      T* own = sweep.rows_of(low, rows);
      sweep.copy(low, edge(before), own);
      splat(low, own, nullptr);
      sweep.blur_before(low, worker, own);
    });
  }

  // The rows of a slab before this turn, indexed from vertex 0. Chunk [low, high) overwrites its own rows
  // only after their last read.
  struct OldRows {
    const Turn& turn;
    int64_t low, high;
    const T* operator()(int64_t slab) const {
      const Lattice& lattice = turn.sweep.lattice;
      if (!turn.goes_on || (slab >= low && slab < high) || slab < 0 || slab >= lattice.slabs)
        return turn.rows;
      return turn.spared.template as<T*>()[slab] - lattice.slab_vertex[slab] * turn.sweep.shape.width;
    }
  };

  // Places the next finished slab directly after this one, which is moved to the front of the two buffers if
  // there is no room: narrow rows are moved faster than every access could tell the two slabs apart.
  void make_contiguous(int64_t slab, T** finished, T* first) const {
    const int32_t* const vertex = sweep.lattice.slab_vertex;
    T*& own = finished[slab % 2];
    const int64_t size = (vertex[slab + 1] - vertex[slab]) * sweep.shape.step();
    const int64_t next_size = (vertex[slab + 2] - vertex[slab + 1]) * sweep.shape.step();
    if (own - first + size + next_size > 2 * sweep.slab_rows * sweep.shape.step()) {
      std::memmove(first, own, static_cast<size_t>(size) * sizeof(T));
      own = first;
    }
    finished[(slab + 1) % 2] = own + size;
  }

  template <int V, class Common, class Body>
  void run(int64_t chunk, int worker, bool fits, const Common& common, const Body& body) const {
    const Lattice& lattice = sweep.lattice;
    const int64_t low = first_slab(chunk), high = first_slab(chunk + 1);
    if (low == high) return;
    typename S::template Crossing<OldRows> crossing(sweep, OldRows{*this, low, high}, low, worker);
    T *const first = sweep.slab_buffer(worker, 0), *finished[2] = {first, sweep.slab_buffer(worker, 1)};
    if (NB < 0) finished[low % 2] = first;
    crossing.finish(low, finished[low % 2]);
    if (low == 0 && goes_on) sweep.clear(0, rows);
    int64_t part = first_part(chunk);
    for (int64_t slab = low; slab < high; ++slab) {
      check_stop();
      while (part_slab(part + 1) <= slab) ++part;
      const bool top = slab + 1 == lattice.slabs;
      if (NB < 0 && !top) make_contiguous(slab, finished, first);
      if (!top) crossing.finish(slab + 1, finished[(slab + 1) % 2]);
      const int64_t base = lattice.slab_vertex[slab], border = lattice.slab_vertex[slab + 1];
      const T* own_rows = finished[slab % 2] - base * sweep.shape.width;
      const T* next_rows = finished[(slab + 1) % 2] - border * sweep.shape.width;
      const auto take = [&](const auto& to) CRFRNN_INLINE_LAMBDA {
        const int64_t begin = lattice.slab_simplex[slab], end = lattice.slab_simplex[slab + 1];
        if constexpr (NB < 0)
          slice_parts<V>(sweep, begin, end, own_rows,
                         [&](int64_t p, int some, Pack<T> sums)
                             CRFRNN_INLINE_LAMBDA { to.parts(p, some, sums, static_cast<int>(part)); });
        else
          sweep.template slice<V>(begin, end, own_rows, next_rows, border,
                                  [&](int64_t p, Pack<T>* sum)
                                      CRFRNN_INLINE_LAMBDA { to(p, sum, static_cast<int>(part)); });
        if constexpr (requires { to.finish(int64_t{}, int64_t{}, 0); })
          to.finish(lattice.simplex_start[lattice.slab_simplex[slab]],
                    lattice.simplex_start[lattice.slab_simplex[slab + 1]], static_cast<int>(part));
      };
      if (fits)
        take(common);
      else
        take(body);
      if (!goes_on) continue;
      const bool waits = slab == low && low > 0;
      T* own = waits ? nullptr : sweep.rows_of(slab, rows);
      T* next = top ? nullptr : (slab + 1 == high ? edge(chunk) : sweep.rows_of(slab + 1, rows));
      if (next) sweep.clear(slab + 1, next);
      splat(slab, own, next);
      if (!waits) sweep.blur_before(slab, worker, own);
    }
  }
};

}  // namespace crfrnn::CRFRNN_ISA
