// SPDX-License-Identifier: MIT
#include "filter.hpp"

#include <utility>

#include "embed.hpp"
#include "sweep.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// Columns [column, column + NB packs) of an array [total][channels] of points in their own order.
template <class T, int NB>
struct Columns {
  const T* values;
  int64_t channels, column;
  const int32_t* order;
  int64_t points;

  CRFRNN_INLINE void operator()(int64_t p, Pack<T>* out) const {
    ask_scattered<T>(order, points, p, values + column, channels, NB);
    const T* row = values + int64_t{order[p]} * channels + column;
    for (int b = 0; b < NB; ++b) {
      const int64_t at = b * Pack<T>::lanes, left = channels - column - at;
      out[b] = left > 0 ? Pack<T>::load(row + at, Pack<T>::Lanes::first(left)) : Pack<T>::zero();
    }
  }
};

template <class T, int NB>
CRFRNN_INLINE void store_columns(T* row, int64_t left, const Pack<T>* packs) {
  for (int b = 0; b < NB; ++b, left -= Pack<T>::lanes)
    if (left > 0) packs[b].store(row + b * Pack<T>::lanes, Pack<T>::Lanes::first(left));
}

template <class T, int NB>
void filter_columns(const Lattice& lattice, const T* weights, const T* values, int64_t channels, int64_t column, bool reverse, T* out, int threads, T* between, T* rows) {
  const Buffer scratch(Sweep<T, NB>::scratch_bytes(lattice, channels - column, threads));
  const Sweep<T, NB> sweep(lattice, weights, channels - column, reverse, threads, scratch.as<T>());
  const Columns<T, NB> source{values, channels, column, lattice.order, lattice.points};
  const Pack<T> factor = Pack<T>::set(slice_factor<T>(lattice.dim));
  with_corners<NB>(lattice.dim, [&]<int V>() {
    sweep.template spread<V>(source, between, rows);
    sweep.each_simplex_range([&](int64_t begin, int64_t end, int) {
      sweep.template slice<V>(begin, end, rows, [&](int64_t p, Pack<T>* sum) {
        ask_scattered<T>(lattice.order, lattice.points, p, out + column, channels, NB);
        for (int b = 0; b < NB; ++b) sum[b] = sum[b] * factor;
        store_columns<T, NB>(out + int64_t{lattice.order[p]} * channels + column, channels - column, sum);
      });
    });
  });
}

template <class T, int NB>
void gradient_columns(const Lattice& lattice, const T* weights, const T* x, const T* g, int64_t channels, int64_t column, T* grad_weights, int threads, T* between, T* rows_x, T* rows_g) {
  const Columns<T, NB> source_x{x, channels, column, lattice.order, lattice.points}, source_g{g, channels, column, lattice.order, lattice.points};
  const T factor = slice_factor<T>(lattice.dim);
  const int corners = lattice.dim + 1;
  const Buffer scratch(Sweep<T, NB>::scratch_bytes(lattice, channels - column, threads));
  const Sweep<T, NB> forward(lattice, weights, channels - column, false, threads, scratch.as<T>()),
      backward(lattice, weights, channels - column, true, threads, scratch.as<T>());
  with_corners<NB>(lattice.dim, [&]<int V>() {
    forward.template spread<V>(source_x, between, rows_x);
    backward.template spread<V>(source_g, between, rows_g);
  });
  forward.each_simplex_range([&](int64_t begin, int64_t end, int) {
    for (int64_t s = begin; s < end; ++s) {
      const int32_t* vertex = lattice.simplex_vertex + s * corners;
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p) {
        Pack<T> xp[NB], gp[NB];
        source_x(p, xp);
        source_g(p, gp);
        for (int k = 0; k < corners; ++k) {
          Pack<T> dot = Pack<T>::zero();
          for (int b = 0; b < NB; ++b) {
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

// One channel, as the normaliser has it: rows of a single number, which all fit the cache, one pass an axis. A neighbour that
// is missing has the number of vertices for its index, and there lies a zero.
template <class T>
struct SingleColumn {
  const Lattice& lattice;
  const T* weights;
  int threads;
  int corners = lattice.dim + 1;

  template <int V>
  void splat(const T* values, T* rows) const {
    const int count = V ? V : corners;
    const int64_t chunks = sweep_chunks(lattice, threads);
    parallel_for(chunks, threads, [&](int64_t c, int) {
      const int64_t low = chunk_slab(lattice, c, chunks), high = chunk_slab(lattice, c + 1, chunks);
      if (low == high) return;
      const int64_t begin = lattice.slab_vertex[low], end = lattice.slab_vertex[high];
      for (int64_t v = begin; v < end; ++v) rows[v] = T(0);
      // The simplices of the slab below reach up into this chunk, those of its last slab beyond it.
      for (int64_t s = lattice.slab_simplex[low > 0 ? low - 1 : 0]; s < lattice.slab_simplex[high]; ++s) {
        T sum[V ? V : max_dim + 1] = {};
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
void filter_single(const Lattice& lattice, const T* weights, const T* values, bool reverse, T* out, int threads) {
  const Buffer first(static_cast<size_t>(lattice.vertices + 1) * sizeof(T)), second(static_cast<size_t>(lattice.vertices + 1) * sizeof(T));
  T* rows = first.as<T>();
  T* spare = second.as<T>();
  const SingleColumn<T> column{lattice, weights, threads};
  with_corners<1>(lattice.dim, [&]<int V>() {
    column.template splat<V>(values, rows);
    for (int i = 0; i <= lattice.dim; ++i) {
      rows[lattice.vertices] = T(0);
      column.blur(reverse ? lattice.dim - i : i, rows, spare);
      std::swap(rows, spare);
    }
    column.template slice<V>(rows, out);
  });
}

template <class T, class Body>
void each_column_group(int64_t channels, const Body& body) {
  for (int64_t column = 0; column < channels;) {
    if (channels - column > Pack<T>::lanes) {
      body.template operator()<2>(column);
      column += 2 * Pack<T>::lanes;
    } else {
      body.template operator()<1>(column);
      column += Pack<T>::lanes;
    }
  }
}

template <class T>
size_t row_bytes(const Lattice& lattice, int64_t channels) {
  const int64_t width = channels > Pack<T>::lanes ? RowShape<T, 2>::width_of(channels) : RowShape<T, 1>::width_of(channels);
  return static_cast<size_t>(lattice.vertices * width) * sizeof(T);
}

template <class T>
void filter(const Lattice& lattice, const T* weights, const T* values, int64_t channels, bool reverse, T* out,
            int threads) {
  if (lattice.points < lattice.total)
    for (int64_t i = 0; i < lattice.total * channels; ++i) out[i] = T(0);
  if (lattice.points == 0) return;
  if (channels == 1) return filter_single(lattice, weights, values, reverse, out, threads);
  const Buffer between(row_bytes<T>(lattice, channels)), rows(row_bytes<T>(lattice, channels));
  each_column_group<T>(channels, [&]<int NB>(int64_t column) {
    filter_columns<T, NB>(lattice, weights, values, channels, column, reverse, out, threads, between.as<T>(),
                          rows.as<T>());
  });
}

template <class T>
void weight_gradient(const Lattice& lattice, const T* weights, const T* x, const T* g, int64_t channels,
                     T* grad_weights, int threads) {
  for (int64_t i = 0; i < lattice.points * (lattice.dim + 1); ++i) grad_weights[i] = T(0);
  if (lattice.points == 0) return;
  const Buffer between(row_bytes<T>(lattice, channels)), rows_x(row_bytes<T>(lattice, channels)),
      rows_g(row_bytes<T>(lattice, channels));
  each_column_group<T>(channels, [&]<int NB>(int64_t column) {
    gradient_columns<T, NB>(lattice, weights, x, g, channels, column, grad_weights, threads, between.as<T>(),
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
