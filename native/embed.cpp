// SPDX-License-Identifier: MIT
#include "embed.hpp"

#include "prefetch.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// c_i of the elevation: the factor of feature i, √(2/3) (d + 1) / √((i + 1)(i + 2)).
template <class T>
void elevation_scales(int dim, double scale, T* out) {
  for (int i = 0; i < dim; ++i)
    out[i] = static_cast<T>(scale * std::sqrt(2.0 / 3.0) * (dim + 1) / std::sqrt((i + 1.0) * (i + 2.0)));
}

constexpr int64_t blocks_ahead = 6;  // blocks between the prefetch of a block's lines and their writes

// Above this limit, coordinates no longer distinguish adjacent integers.
template <class T>
constexpr T limit = sizeof(T) == 4 ? T(4194304) : T(1125899906842624);

// Writes the results of embed_one for its block from packs to memory: f of the remainder-0 vertex, and the
// range so far.
template <class T>
CRFRNN_INLINE void write_block(const Pack<T>* nearest, const Pack<T>* rank, const Pack<T>* weight,
                               int64_t first, int count, int d, const Embedded<T>& out, Pack<T>* least,
                               Pack<T>* most) {
  using P = Pack<T>;
  constexpr int block = embed_block<T>;
  const auto there = P::Lanes::first(count);
  Coordinate<T>* coordinates = out.coordinates + first * d;
  uint8_t* ranks = out.rank + first * (d + 1);
  T* weights = out.weights + first * (d + 1);
  alignas(64) T numbers[block];
  for (int i = 0; i < d; ++i) {
    const P f = nearest[i] - nearest[i + 1];
    least[i] = P::select(there, P::min(least[i], f), least[i]);
    most[i] = P::select(there, P::max(most[i], f), most[i]);
    f.store(numbers);
    for (int p = 0; p < block; ++p) coordinates[i * block + p] = static_cast<Coordinate<T>>(numbers[p]);
  }
  for (int i = 0; i <= d; ++i) {
    rank[i].store(numbers);
    for (int p = 0; p < block; ++p) ranks[i * block + p] = static_cast<uint8_t>(numbers[p]);
  }
  for (int i = 0; i <= d; ++i) {
    weight[i].store(numbers);
    for (int p = 0; p < count; ++p) weights[p * (d + 1) + i] = numbers[p];
  }
}

// Embeds the block that begins with point `first`; only `count` of its points exist. D is the number of
// features per point if it is a constant, so that all numbers fit in registers; D = 0 means `dim` features.
template <class T, int D>
int embed_one(const T* features, int64_t first, int count, int dim, const T* scales, const Embedded<T>& out,
              Pack<T>* least, Pack<T>* most) {
  using P = Pack<T>;
  constexpr int block = embed_block<T>, room = D ? D : max_dim;
  const int d = D ? D : dim;
  const P width = P::set(T(d + 1)), inverse = P::set(T(1) / T(d + 1)), zero = P::zero(), one = P::set(T(1));
  alignas(64) T lane[room][block];
  P difference = zero;  // becomes NaN if a feature is not finite
  for (int p = 0; p < count; ++p)
    for (int i = 0; i < d; ++i) lane[i][p] = features[(first + p) * d + i];
  for (int p = count; p < block; ++p)
    for (int i = 0; i < d; ++i) lane[i][p] = T(0);
  P e[room + 1], nearest[room + 1], rank[room + 1], shift = zero, running = zero, largest = zero;
  for (int i = d; i >= 1; --i) {
    const P f = P::load(lane[i - 1]), cf = f * P::set(scales[i - 1]);
    difference = difference + (f - f);
    e[i] = running - P::set(T(i)) * cf;
    running = running + cf;
  }
  e[0] = running;
  if (!(difference.sum() == T(0))) return 1;
  for (int i = 0; i <= d; ++i) largest = P::max(largest, P::max(e[i], zero - e[i]));
  if (!(largest.most() <= limit<T>)) return 2;

  // The nearest remainder-0 point before correction; ties are rounded down.
  for (int i = 0; i <= d; ++i) {
    const P v = e[i] * inverse, low = P::floor(v), high = P::ceil(v);
    const P up = P::less(high * width - e[i], e[i] - low * width);
    nearest[i] = P::fma(up, high - low, low);
    shift = shift + nearest[i];
    rank[i] = zero;
  }
  P rest[room + 1];
  for (int i = 0; i <= d; ++i) rest[i] = e[i] - nearest[i] * width;
  for (int i = 0; i < d; ++i)
    for (int j = i + 1; j <= d; ++j) {
      const P less = P::less(rest[i], rest[j]);
      rank[i] = rank[i] + less;
      rank[j] = rank[j] + (one - less);
    }
  // The point is off the plane by `shift`: move the coordinates with the largest remainders back.
  for (int i = 0; i <= d; ++i) {
    const P r = rank[i] + shift;
    const P move = P::less(r, zero) - P::less(P::set(T(d)), r);
    rank[i] = P::fma(move, width, r);
    nearest[i] = nearest[i] + move;
  }
  P b[room + 2];
  for (int i = 0; i <= d + 1; ++i) b[i] = zero;
  for (int i = 0; i <= d; ++i) {
    const P delta = (e[i] - nearest[i] * width) * inverse;
    for (int r = 0; r <= d; ++r) {
      const P here = P::if_equal(rank[i], P::set(T(r)), delta);
      b[d - r] = b[d - r] + here;
      b[d + 1 - r] = b[d + 1 - r] - here;
    }
  }
  b[0] = b[0] + (one + b[d + 1]);
  write_block(nearest, rank, b, first, count, d, out, least, most);
  return 0;
}

template <class T, int D>
int embed_points(const T* features, int64_t begin, int64_t end, int dim, double scale, const Embedded<T>& out,
                 T* least, T* most) {
  using P = Pack<T>;
  constexpr int room = D ? D : max_dim;
  const int d = D ? D : dim;
  T scales[room];
  elevation_scales(d, scale, scales);
  P low[room], high[room];
  for (int i = 0; i < d; ++i) low[i] = P::set(limit<T>), high[i] = P::set(-limit<T>);
  constexpr int block = embed_block<T>;
  const auto ask = [](const void* first, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) prefetch_to_write(static_cast<const char*>(first) + at);
  };
  for (int64_t p = begin; p < end; p += block) {
    // Without this, stores to lines that another core has written fill the store buffer, and it waits.
    if (const int64_t later = p + blocks_ahead * block; later + block <= end) {
      ask(out.coordinates + later * d, block * d * static_cast<int64_t>(sizeof(Coordinate<T>)));
      ask(out.rank + later * (d + 1), block * (d + 1));
      ask(out.weights + later * (d + 1), block * (d + 1) * static_cast<int64_t>(sizeof(T)));
    }
    const int bad = embed_one<T, D>(features, p, static_cast<int>(end - p < block ? end - p : block), d,
                                    scales, out, low, high);
    if (bad) return bad;
  }
  for (int i = 0; i < d; ++i) {
    least[i] = -(P::zero() - low[i]).most();
    most[i] = high[i].most();
  }
  return 0;
}

// Specialised for grids of two and three axes, and for images with three colour channels. If the numbers do
// not fit in registers, a runtime count is hardly slower.
template <class T>
int embed(const T* features, int64_t begin, int64_t end, int dim, double scale, const Embedded<T>& out,
          T* least, T* most) {
  switch (dim) {
    case 2: return embed_points<T, 2>(features, begin, end, dim, scale, out, least, most);
    case 3: return embed_points<T, 3>(features, begin, end, dim, scale, out, least, most);
    case 5: return embed_points<T, 5>(features, begin, end, dim, scale, out, least, most);
    default: return embed_points<T, 0>(features, begin, end, dim, scale, out, least, most);
  }
}

// The weights are sums of ±(e_i - (d+1) n_i) / (d+1) by rank, and e is linear in the features; this is the
// transpose of both steps.
template <class T>
void feature_gradient(const T* grad_weights, const uint8_t* rank, int dim, double scale, T* grad_features) {
  T scales[max_dim], grad_elevated[max_dim + 1];
  elevation_scales(dim, scale, scales);
  for (int i = 0; i <= dim; ++i) {
    const int r = rank[i];
    const T above = r == 0 ? grad_weights[0] : grad_weights[dim + 1 - r];
    grad_elevated[i] = (grad_weights[dim - r] - above) / static_cast<T>(dim + 1);
  }
  T running = grad_elevated[0];
  for (int i = 1; i <= dim; ++i) {
    grad_features[i - 1] = (running - static_cast<T>(i) * grad_elevated[i]) * scales[i - 1];
    running += grad_elevated[i];
  }
}

}  // namespace

template <class T>
const EmbedTable<T>& embed_table() {
  static const EmbedTable<T> table{&embed<T>, &feature_gradient<T>};
  return table;
}
template const EmbedTable<float>& embed_table<float>();
template const EmbedTable<double>& embed_table<double>();

}  // namespace crfrnn::CRFRNN_ISA
