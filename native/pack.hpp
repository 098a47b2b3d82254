// SPDX-License-Identifier: MIT
// A pack of lanes, with loads and stores. Included only by sources that are compiled once per instruction
// set: everything here is in the namespace of that set, so the linker cannot mix two of them. This file
// contains the portable pack, as plain loops; pack_avx512.hpp, pack_avx2.hpp and pack_neon.hpp implement the
// same interface for one instruction set each.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "prefetch.hpp"

#if defined(CRFRNN_ISA_avx512) || defined(CRFRNN_ISA_avx2)
#include <immintrin.h>
#endif

namespace crfrnn {

namespace CRFRNN_ISA {

// a b + c, rounded once if the processor has an instruction for it. The compiler itself does not contract
// expressions (CMakeLists.txt).
template <class T>
CRFRNN_INLINE T multiply_add(T a, T b, T c) {
#if defined(__aarch64__) || defined(CRFRNN_ISA_avx512) || defined(CRFRNN_ISA_avx2)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// Transposes a square of packs: swaps lane j of pack i with lane i of pack j.
template <class P, class T>
CRFRNN_INLINE void transpose_in_memory(P* rows) {
  alignas(64) T tile[P::lanes][P::lanes], mirrored[P::lanes][P::lanes];
  for (int i = 0; i < P::lanes; ++i) rows[i].store(tile[i]);
  for (int i = 0; i < P::lanes; ++i)
    for (int j = 0; j < P::lanes; ++j) mirrored[j][i] = tile[i][j];
  for (int i = 0; i < P::lanes; ++i) rows[i] = P::load(mirrored[i]);
}

// 2^f for f in [0, 1): a polynomial with a relative error of 7.5e-8.
template <class P>
CRFRNN_INLINE P exp2_fraction(P f) {
  P p = P::fma(P::set(1.8775765e-3f), f, P::set(8.9893406e-3f));
  p = P::fma(p, f, P::set(5.5826318e-2f));
  p = P::fma(p, f, P::set(2.4015361e-1f));
  p = P::fma(p, f, P::set(6.9315308e-1f));
  return P::fma(p, f, P::set(0.99999994f));
}

// 2^t, with t clamped to [-100, 127].
template <class P>
CRFRNN_INLINE P exp2_by_parts(P t) {
  const P bounded = P::min(P::max(t, P::set(-100.f)), P::set(127.f)), n = P::floor(bounded);
  return exp2_fraction(bounded - n) * P::exp2i(n);
}

template <class T>
struct Pack {
  static constexpr int lanes = 64 / sizeof(T);  // float: 16, double: 8; one cache line in both cases
  T v[lanes];
#define CRFRNN_LANES(expression)                       \
  Pack r;                                              \
  for (int i = 0; i < lanes; ++i) r.v[i] = expression; \
  return r;
  static CRFRNN_INLINE Pack zero() { CRFRNN_LANES(T(0)) }
  static CRFRNN_INLINE Pack set(T x) { CRFRNN_LANES(x) }
  static CRFRNN_INLINE Pack load(const T* p) { CRFRNN_LANES(p[i]) }
  // A prefix of the lanes.
  struct Lanes {
    int64_t count;
    static CRFRNN_INLINE Lanes first(int64_t n) { return {n}; }
  };
  static CRFRNN_INLINE Pack load(const T* p, Lanes some) { CRFRNN_LANES(i < some.count ? p[i] : T(0)) }
  // a in the lanes of `some`, b in the others.
  static CRFRNN_INLINE Pack select(Lanes some, Pack a, Pack b){CRFRNN_LANES(i < some.count ? a.v[i] : b.v[i])}
  CRFRNN_INLINE void store(T* p) const {
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE void store(T* p, Lanes some) const {
    for (int i = 0; i < lanes && i < some.count; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE Pack operator+(Pack o) const {CRFRNN_LANES(v[i] + o.v[i])}
  CRFRNN_INLINE Pack operator-(Pack o) const {CRFRNN_LANES(v[i] - o.v[i])}
  CRFRNN_INLINE Pack operator*(Pack o) const {
    CRFRNN_LANES(v[i] * o.v[i])
  }
  static CRFRNN_INLINE Pack fma(Pack a, Pack b, Pack c) { CRFRNN_LANES(multiply_add(a.v[i], b.v[i], c.v[i])) }
  static CRFRNN_INLINE Pack max(Pack a, Pack b) { CRFRNN_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]) }
  static CRFRNN_INLINE Pack min(Pack a, Pack b) { CRFRNN_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]) }
  static CRFRNN_INLINE Pack floor(Pack a) { CRFRNN_LANES(std::floor(a.v[i])) }
  static CRFRNN_INLINE Pack ceil(Pack a) { CRFRNN_LANES(std::ceil(a.v[i])) }
  // 1 where a < b, else 0
  static CRFRNN_INLINE Pack less(Pack a, Pack b) { CRFRNN_LANES(a.v[i] < b.v[i] ? T(1) : T(0)) }
  // a where x = y, else 0
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack a){CRFRNN_LANES(x.v[i] == y.v[i] ? a.v[i] : T(0))}
  CRFRNN_INLINE T sum() const {
    T s = 0;
    for (int i = 0; i < lanes; ++i) s += v[i];
    return s;
  }
  CRFRNN_INLINE T most() const {
    T s = v[0];
    for (int i = 1; i < lanes; ++i) s = v[i] > s ? v[i] : s;
    return s;
  }
  // 2^n for integral n in [-126, 127]; float only
  static CRFRNN_INLINE Pack exp2i(Pack n) {
    Pack r;
    for (int i = 0; i < lanes; ++i) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
  static CRFRNN_INLINE Pack exp2(Pack t) { return exp2_by_parts(t); }
  static CRFRNN_INLINE void transpose(Pack* rows) { transpose_in_memory<Pack, T>(rows); }

  // The remaining functions serve narrow rows, of W = 4 or 8 numbers: a pack holds lanes / W of them, its
  // *parts*.
  // One row; the other lanes are zero.
  template <int W>
  static CRFRNN_INLINE Pack load_row(const T* p) {
    CRFRNN_LANES(i < W ? p[i] : T(0))
  }
  template <int W>
  CRFRNN_INLINE void store_row(T* p) const {
    for (int i = 0; i < W; ++i) p[i] = v[i];
  }
  // The row at(g) in part g.
  template <int W, class At>
  static CRFRNN_INLINE Pack rows(const At& at) {
    Pack r;
    for (int g = 0; g < lanes / W; ++g)
      for (int i = 0; i < W; ++i) r.v[g * W + i] = at(g)[i];
    return r;
  }
  // The number *at(g) in all lanes of part g.
  template <int W, class At>
  static CRFRNN_INLINE Pack spread(const At& at) {
    CRFRNN_LANES(*at(i / W))
  }
  // In all lanes of a part the sum of its lanes, added in the order of sum().
  template <int W>
  CRFRNN_INLINE Pack part_sums() const {
    T s[lanes / W];
    for (int g = 0; g < lanes / W; ++g) {
      s[g] = 0;
      for (int i = 0; i < W; ++i) s[g] += v[g * W + i];
    }
    CRFRNN_LANES(s[i / W])
  }
  // Number F of four in all lanes of part g: x[4 g + F].
  template <int W, int F>
  static CRFRNN_INLINE Pack field(const T* x) {
    CRFRNN_LANES(x[4 * (i / W) + F])
  }
  // The first lane of part g to x[4 g + F].
  template <int W, int F>
  CRFRNN_INLINE void store_field(T* x) const {
    for (int g = 0; g < lanes / W; ++g) x[4 * g + F] = v[g * W];
  }
  CRFRNN_INLINE Pack operator/(Pack o) const { CRFRNN_LANES(v[i] / o.v[i]) }
  // a < b in every lane; false if one is not a number
  static CRFRNN_INLINE bool all_less(Pack a, Pack b) {
    bool all = true;
    for (int i = 0; i < lanes; ++i) all = all && a.v[i] < b.v[i];
    return all;
  }
#undef CRFRNN_LANES
};

// The last pack of a lattice row, of which a multiple of `grain` lanes is stored: all of them, unless the
// instruction set has a cheap partial load and store. The fewer bytes a row has, the more slabs fit in the
// cache.
template <class T>
struct RowEnd {
  static constexpr int grain = Pack<T>::lanes;
  explicit RowEnd(int64_t) {}
  CRFRNN_INLINE Pack<T> load(const T* p) const { return Pack<T>::load(p); }
  CRFRNN_INLINE void store(const Pack<T>& pack, T* p) const { pack.store(p); }
};

}  // namespace CRFRNN_ISA
}  // namespace crfrnn
