// SPDX-License-Identifier: MIT
#include "filter.hpp"

#include <bit>
#include <utility>

#include "embed.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

constexpr int fixed_packs = 2;  // the number of packs is a compile-time constant up to this

// Columns [column, column + count) of an array [total][channels] of points in their own order, in NB packs,
// or, if NB = 0, in a runtime number of packs.
template <class T, int NB>
struct Columns {
  const T* values;
  int64_t channels, column, count;
  const int32_t* order;
  int64_t points;

  CRFRNN_INLINE int packs() const { return RowShape<T, NB>::packs_of(count); }
  CRFRNN_INLINE void operator()(int64_t p, Pack<T>* out) const {
    ask_scattered<T>(order, points, p, values + column, channels, packs());
    const T* row = values + int64_t{order[p]} * channels + column;
    for (int b = 0; b < packs(); ++b) {
      const int64_t at = b * Pack<T>::lanes, left = count - at;
      out[b] = left > 0 ? Pack<T>::load(row + at, Pack<T>::Lanes::first(left)) : Pack<T>::zero();
    }
  }

  // Stores the same columns to `out`, an array of the same shape.
  CRFRNN_INLINE void store(T* out, int64_t p, const Pack<T>* sum) const {
    ask_scattered<T>(order, points, p, out + column, channels, packs());
    T* row = out + int64_t{order[p]} * channels + column;
    for (int b = 0; b < packs(); ++b) {
      const int64_t at = b * Pack<T>::lanes, left = count - at;
      if (left > 0) sum[b].store(row + at, Pack<T>::Lanes::first(left));
    }
  }
};

template <class T, int NB>
void filter_columns(const Lattice& lattice, const T* weights, const Columns<T, NB>& source, bool reverse,
                    T* out, int threads, T* between, T* rows) {
  const Buffer scratch(Sweep<T, NB>::scratch_bytes(lattice, source.count, threads));
  const Sweep<T, NB> sweep(lattice, weights, source.count, fixed_packs, reverse, threads, scratch.as<T>());
  const Pack<T> factor = Pack<T>::set(slice_factor<T>(lattice.dim));
  with_corners<NB>(lattice.dim, [&]<int V>() {
    sweep.template spread<V>(source, between, rows);
    sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
      sweep.template slice<V>(begin, end, rows, [&](int64_t p, Pack<T>* sum) {
        for (int b = 0; b < source.packs(); ++b) sum[b] = sum[b] * factor;
        source.store(out, p, sum);
      });
    });
  });
}

template <class T, int NB>
void gradient_columns(const Lattice& lattice, const T* weights, const Columns<T, NB>& source_x,
                      const Columns<T, NB>& source_g, T* grad_weights, int threads, T* between, T* rows_x,
                      T* rows_g) {
  const T factor = slice_factor<T>(lattice.dim);
  const int corners = lattice.dim + 1;
  const Buffer scratch(Sweep<T, NB>::scratch_bytes(lattice, source_x.count, threads));
  const Sweep<T, NB> forward(lattice, weights, source_x.count, fixed_packs, false, threads, scratch.as<T>()),
      backward(lattice, weights, source_x.count, fixed_packs, true, threads, scratch.as<T>());
  with_corners<NB>(lattice.dim, [&]<int V>() {
    forward.template spread<V>(source_x, between, rows_x);
    backward.template spread<V>(source_g, between, rows_g);
  });
  forward.each_simplex_range([&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        Pack<T> xp[RowShape<T, NB>::capacity], gp[RowShape<T, NB>::capacity];
        source_x(p, xp);
        source_g(p, gp);
        for (int k = 0; k < corners; ++k) {
          Pack<T> dot = Pack<T>::zero();
          for (int b = 0; b < forward.shape.packs(); ++b) {
            const int64_t at = vertex[k] * forward.shape.width;
            dot = Pack<T>::fma(gp[b], forward.shape.load(rows_x + at, b), dot);
            dot = Pack<T>::fma(xp[b], forward.shape.load(rows_g + at, b), dot);
          }
          grad_weights[p * corners + k] += factor * dot.sum();
        }
      }
    }
  });
}

// The filter for one channel, used for the normaliser: rows are single numbers that all fit in the cache, so
// each axis takes one pass. The index of a missing neighbour is the number of vertices, where a zero is
// stored.
template <class T>
struct SingleColumn {
  const Lattice& lattice;
  const T* weights;
  int threads;
  int corners = lattice.dim + 1;

  template <int V>
  void splat(const T* values, T* rows) const {
    const int count = V ? V : corners;
    // one chunk per thread, because each repeats the simplices of a slab
    const int64_t chunks = threads < 1 ? 1 : threads;
    parallel_for(chunks, threads, [&](int64_t c, int) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low == high) return;
      const int64_t begin = lattice.slab_vertex[low], end = lattice.slab_vertex[high];
      for (int64_t v = begin; v < end; ++v) rows[v] = T(0);
      // The simplices of the slab below also contribute to this chunk, and those of its last slab also to the
      // next chunk.
      for (int64_t s = lattice.slab_simplex[low > 0 ? low - 1 : 0]; s < lattice.slab_simplex[high]; ++s) {
        T sum[V ? V : max_dim + 1];
        for (int k = 0; k < count; ++k) sum[k] = T(0);
        for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
          if (p + ahead < lattice.points) prefetch(values + lattice.order[p + ahead]);
          const T value = values[lattice.order[p]];
          for (int k = 0; k < count; ++k) sum[k] += weights[p * count + k] * value;
        }
        for (int k = 0; k < count; ++k) {
          const int64_t v = lattice.simplex_vertex[s * count + k];
          if (v >= begin && v < end) rows[v] += sum[k];
        }
      }
    });
  }

  void blur(int axis, const T* rows, T* out) const {
    const int32_t* plus = lattice.neighbour + 2 * axis * lattice.vertices;
    const int32_t* minus = plus + lattice.vertices;
    parallel_ranges(lattice.vertices, 4096, threads, [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) out[v] = rows[v] + T(0.5) * (rows[plus[v]] + rows[minus[v]]);
    });
  }

  void blur_group(int which, const T* rows, T* out) const {
    const AxisGroup group = lattice.group(which);
    T share[AxisGroup::most_offsets];
    for (int n = 0; n < group.offsets(); ++n) share[n] = T(1) / static_cast<T>(1 << group.moves(n));
    const int32_t* mask = lattice.link_mask + which * lattice.vertices;
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      const int32_t* link = lattice.link + lattice.slab_link[which * lattice.slabs + low];
      for (int64_t v = lattice.slab_vertex[low]; v < lattice.slab_vertex[high]; ++v) {
        T sum = rows[v];
        for (uint32_t left = static_cast<uint32_t>(mask[v]); left; left &= left - 1)
          sum += share[std::countr_zero(left)] * rows[*link++];
        out[v] = sum;
      }
    });
  }

  template <int V>
  void slice(const T* rows, T* out) const {
    const int count = V ? V : corners;
    const T factor = slice_factor<T>(lattice.dim);
    parallel_ranges(lattice.simplices, 4096, threads, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        T row[V ? V : max_dim + 1];
        for (int k = 0; k < count; ++k) row[k] = rows[lattice.simplex_vertex[s * count + k]];
        for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
          T sum = T(0);
          for (int k = 0; k < count; ++k) sum += weights[p * count + k] * row[k];
          out[lattice.order[p]] = sum * factor;
        }
      }
    });
  }
};

template <class T>
void filter_single(const Lattice& lattice, const T* weights, const T* values, bool reverse, T* out,
                   int threads) {
  const Buffer first(static_cast<size_t>(lattice.vertices + 1) * sizeof(T)),
      second(static_cast<size_t>(lattice.vertices + 1) * sizeof(T));
  T* rows = first.as<T>();
  T* spare = second.as<T>();
  const SingleColumn<T> column{lattice, weights, threads};
  with_corners<1>(lattice.dim, [&]<int V>() {
    column.template splat<V>(values, rows);
    const int count = lattice.groups();
    for (int i = 0; i < count; ++i) {
      const int which = reverse ? count - 1 - i : i;
      rows[lattice.vertices] = T(0);
      if (lattice.together > 1)
        column.blur_group(which, rows, spare);
      else
        column.blur(which, rows, spare);
      std::swap(rows, spare);
    }
    column.template slice<V>(rows, out);
  });
}

// Number of columns filtered at a time: as many as most_packs hold. For float64, which is mainly used for
// checks, only two packs, because a walk over rows of arbitrary width adds seconds of compile time.
template <class T>
constexpr int64_t group_columns = (sizeof(T) == sizeof(float) ? most_packs : 2) * Pack<T>::lanes;

// Calls body<NB>(column, count) for groups of columns.
template <class T, class Body>
void each_column_group(int64_t channels, const Body& body) {
  for (int64_t column = 0; column < channels; column += group_columns<T>) {
    const int64_t left = channels - column, count = left < group_columns<T> ? left : group_columns<T>;
    const int packs = specialised ? RowShape<T, 0>::packs_of(count) : 0;
    if constexpr (specialised) {
      if (packs == 1) body.template operator()<1>(column, count);
      if (packs == 2) body.template operator()<2>(column, count);
    }
    if constexpr (!specialised || group_columns<T> > fixed_packs * Pack<T>::lanes)
      if (packs == 0 || packs > fixed_packs) body.template operator()<0>(column, count);
  }
}

// Memory for the rows of the widest group, which is the first one.
template <class T>
size_t row_bytes(const Lattice& lattice, int64_t channels) {
  const int64_t count = channels < group_columns<T> ? channels : group_columns<T>;
  return static_cast<size_t>(lattice.vertices * RowShape<T, 0>::width_of(count)) * sizeof(T);
}

template <class T>
void clear(T* numbers, int64_t count, int threads) {
  parallel_ranges(count, 1 << 15, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) numbers[i] = T(0);
  });
}

template <class T>
void filter(const Lattice& lattice, const T* weights, const T* values, int64_t channels, bool reverse, T* out,
            int threads) {
  if (lattice.points < lattice.total) clear(out, lattice.total * channels, threads);
  if (lattice.points == 0) return;
  if (channels == 1) return filter_single(lattice, weights, values, reverse, out, threads);
  const Buffer between(row_bytes<T>(lattice, channels)), rows(row_bytes<T>(lattice, channels));
  each_column_group<T>(channels, [&]<int NB>(int64_t column, int64_t count) {
    const Columns<T, NB> source{values, channels, column, count, lattice.order, lattice.points};
    filter_columns<T, NB>(lattice, weights, source, reverse, out, threads, between.as<T>(), rows.as<T>());
  });
}

template <class T>
void weight_gradient(const Lattice& lattice, const T* weights, const T* x, const T* g, int64_t channels,
                     T* grad_weights, int threads) {
  clear(grad_weights, lattice.points * (lattice.dim + 1), threads);
  if (lattice.points == 0) return;
  const Buffer between(row_bytes<T>(lattice, channels)), rows_x(row_bytes<T>(lattice, channels)),
      rows_g(row_bytes<T>(lattice, channels));
  each_column_group<T>(channels, [&]<int NB>(int64_t column, int64_t count) {
    const auto of = [&](const T* values) {
      return Columns<T, NB>{values, channels, column, count, lattice.order, lattice.points};
    };
    gradient_columns<T, NB>(lattice, weights, of(x), of(g), grad_weights, threads, between.as<T>(),
                            rows_x.as<T>(), rows_g.as<T>());
  });
}

}  // namespace

template <class T>
const FilterTable<T>& filter_table() {
  static const FilterTable<T> table{&filter<T>, &weight_gradient<T>};
  return table;
}
template const FilterTable<float>& filter_table<float>();
template const FilterTable<double>& filter_table<double>();

}  // namespace crfrnn::CRFRNN_ISA
