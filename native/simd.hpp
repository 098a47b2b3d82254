// SPDX-License-Identifier: MIT
// A pack of lanes, and how it is loaded and stored. Included only by sources that are compiled once per instruction set:
// everything here lives in that set's namespace, so the linker can never mix two of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(CRFRNN_ISA_avx512) || defined(CRFRNN_ISA_avx2)
#include <immintrin.h>
#endif

namespace crfrnn {

namespace CRFRNN_ISA {

#if defined(_MSC_VER)
#define CRFRNN_INLINE __forceinline
#define CRFRNN_INLINE_LAMBDA
#else
#define CRFRNN_INLINE inline __attribute__((always_inline))
#define CRFRNN_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Asks for the cache line at p: the rows of scattered pixels and vertices are known long before they are read.
CRFRNN_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p);
#elif defined(CRFRNN_ISA_avx512) || defined(CRFRNN_ISA_avx2)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  (void)p;
#endif
}

constexpr int64_t ahead = 16;  // rows between asking for one and reading it

CRFRNN_INLINE void prefetch_bytes(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) prefetch(static_cast<const char*>(p) + at);
}

// a b + c, rounded once where the processor has an instruction for it. The compiler itself contracts nothing (CMakeLists.txt).
template <class T>
CRFRNN_INLINE T multiply_add(T a, T b, T c) {
#if defined(__aarch64__) || defined(CRFRNN_ISA_avx512) || defined(CRFRNN_ISA_avx2)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

template <class T>
struct Pack;  // float: 16 lanes, double: 8 lanes; 64 bytes, one cache line, either way

#if defined(CRFRNN_ISA_avx512)

template <>
struct Pack<float> {
  static constexpr int lanes = 16;
  __m512 v;
  // Some of the lanes, from the first on.
  struct Lanes {
    __mmask16 bits;
    static CRFRNN_INLINE Lanes first(int64_t n) { return {static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << (n < 0 ? 0 : n)) - 1u)}; }
  };
  static CRFRNN_INLINE Pack zero() { return {_mm512_setzero_ps()}; }
  static CRFRNN_INLINE Pack set(float x) { return {_mm512_set1_ps(x)}; }
  static CRFRNN_INLINE Pack load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) { return {_mm512_maskz_loadu_ps(some.bits, p)}; }
  // a in `some` lanes, b in the others.
  static CRFRNN_INLINE Pack select(Lanes some, Pack a, Pack b) { return {_mm512_mask_mov_ps(b.v, some.bits, a.v)}; }
  CRFRNN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  CRFRNN_INLINE void store(float* p, Lanes some) const { _mm512_mask_storeu_ps(p, some.bits, v); }
  CRFRNN_INLINE Pack operator+(Pack o) const { return {_mm512_add_ps(v, o.v)}; }
  CRFRNN_INLINE Pack operator-(Pack o) const { return {_mm512_sub_ps(v, o.v)}; }
  CRFRNN_INLINE Pack operator*(Pack o) const { return {_mm512_mul_ps(v, o.v)}; }
  static CRFRNN_INLINE Pack fma(Pack a, Pack b, Pack c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static CRFRNN_INLINE Pack max(Pack a, Pack b) { return {_mm512_max_ps(a.v, b.v)}; }
  static CRFRNN_INLINE Pack min(Pack a, Pack b) { return {_mm512_min_ps(a.v, b.v)}; }
  CRFRNN_INLINE float sum() const { return _mm512_reduce_add_ps(v); }
  CRFRNN_INLINE float most() const { return _mm512_reduce_max_ps(v); }
  static CRFRNN_INLINE Pack floor(Pack a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
  static CRFRNN_INLINE Pack ceil(Pack a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)}; }
  // 1 where a < b, else 0
  static CRFRNN_INLINE Pack less(Pack a, Pack b) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), _mm512_set1_ps(1.f))};
  }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_EQ_OQ), a.v)};
  }
};

#elif defined(CRFRNN_ISA_avx2)

template <>
struct Pack<float> {
  static constexpr int lanes = 16;
  __m256 a, b;
  static CRFRNN_INLINE Pack zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static CRFRNN_INLINE Pack set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static CRFRNN_INLINE Pack load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  struct Lanes {
    __m256i a, b;
    static CRFRNN_INLINE Lanes first(int64_t n) {
      const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), most = _mm256_set1_epi32(static_cast<int>(n > 16 ? 16 : n));
      return {_mm256_cmpgt_epi32(most, lane), _mm256_cmpgt_epi32(most, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
    }
  };
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) {
    return {_mm256_maskload_ps(p, some.a), _mm256_maskload_ps(p + 8, some.b)};
  }
  static CRFRNN_INLINE Pack select(Lanes some, Pack x, Pack y) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(some.a)), _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(some.b))};
  }
  CRFRNN_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  CRFRNN_INLINE void store(float* p, Lanes some) const {
    _mm256_maskstore_ps(p, some.a, a);
    _mm256_maskstore_ps(p + 8, some.b, b);
  }
  CRFRNN_INLINE Pack operator+(Pack o) const { return {_mm256_add_ps(a, o.a), _mm256_add_ps(b, o.b)}; }
  CRFRNN_INLINE Pack operator-(Pack o) const { return {_mm256_sub_ps(a, o.a), _mm256_sub_ps(b, o.b)}; }
  CRFRNN_INLINE Pack operator*(Pack o) const { return {_mm256_mul_ps(a, o.a), _mm256_mul_ps(b, o.b)}; }
  static CRFRNN_INLINE Pack fma(Pack x, Pack y, Pack z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static CRFRNN_INLINE Pack max(Pack x, Pack y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static CRFRNN_INLINE Pack min(Pack x, Pack y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  CRFRNN_INLINE float sum() const {
    const __m256 s = _mm256_add_ps(a, b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
  }
  CRFRNN_INLINE float most() const {
    const __m256 s = _mm256_max_ps(a, b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
  }
  static CRFRNN_INLINE Pack floor(Pack x) { return {_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)}; }
  static CRFRNN_INLINE Pack ceil(Pack x) { return {_mm256_ceil_ps(x.a), _mm256_ceil_ps(x.b)}; }
  static CRFRNN_INLINE Pack less(Pack x, Pack y) {
    const __m256 one = _mm256_set1_ps(1.f);
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), one), _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ), one)};
  }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack z) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), z.a), _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ), z.b)};
  }
  // 2^n for integral n in [-126, 127]
  static CRFRNN_INLINE Pack exp2i(Pack n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
  }
};

#else  // baseline: plain loops that the compiler turns into SSE2 or NEON

template <>
struct Pack<float> {
  static constexpr int lanes = 16;
  float v[16];
#define CRFRNN_LANES(expression)                   \
  Pack r;                                          \
  for (int i = 0; i < 16; ++i) r.v[i] = expression; \
  return r;
  static CRFRNN_INLINE Pack zero() { CRFRNN_LANES(0.f) }
  static CRFRNN_INLINE Pack set(float x) { CRFRNN_LANES(x) }
  static CRFRNN_INLINE Pack load(const float* p) { CRFRNN_LANES(p[i]) }
  struct Lanes {
    int64_t count;
    static CRFRNN_INLINE Lanes first(int64_t n) { return {n}; }
  };
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) { CRFRNN_LANES(i < some.count ? p[i] : 0.f) }
  static CRFRNN_INLINE Pack select(Lanes some, Pack a, Pack b) { CRFRNN_LANES(i < some.count ? a.v[i] : b.v[i]) }
  CRFRNN_INLINE void store(float* p) const {
    for (int i = 0; i < 16; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE void store(float* p, Lanes some) const {
    for (int i = 0; i < 16 && i < some.count; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE Pack operator+(Pack o) const { CRFRNN_LANES(v[i] + o.v[i]) }
  CRFRNN_INLINE Pack operator-(Pack o) const { CRFRNN_LANES(v[i] - o.v[i]) }
  CRFRNN_INLINE Pack operator*(Pack o) const { CRFRNN_LANES(v[i] * o.v[i]) }
  static CRFRNN_INLINE Pack fma(Pack a, Pack b, Pack c) { CRFRNN_LANES(multiply_add(a.v[i], b.v[i], c.v[i])) }
  static CRFRNN_INLINE Pack max(Pack a, Pack b) { CRFRNN_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]) }
  static CRFRNN_INLINE Pack min(Pack a, Pack b) { CRFRNN_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]) }
  CRFRNN_INLINE float sum() const {
    float s = 0;
    for (int i = 0; i < 16; ++i) s += v[i];
    return s;
  }
  CRFRNN_INLINE float most() const {
    float s = v[0];
    for (int i = 1; i < 16; ++i) s = v[i] > s ? v[i] : s;
    return s;
  }
  static CRFRNN_INLINE Pack floor(Pack a) { CRFRNN_LANES(std::floor(a.v[i])) }
  static CRFRNN_INLINE Pack ceil(Pack a) { CRFRNN_LANES(std::ceil(a.v[i])) }
  static CRFRNN_INLINE Pack less(Pack a, Pack b) { CRFRNN_LANES(a.v[i] < b.v[i] ? 1.f : 0.f) }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack a) { CRFRNN_LANES(x.v[i] == y.v[i] ? a.v[i] : 0.f) }
  static CRFRNN_INLINE Pack exp2i(Pack n) {
    Pack r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
#undef CRFRNN_LANES
};

#endif

template <>
struct Pack<double> {
  static constexpr int lanes = 8;
  double v[8];
#define CRFRNN_LANES(expression)                  \
  Pack r;                                         \
  for (int i = 0; i < 8; ++i) r.v[i] = expression; \
  return r;
  static CRFRNN_INLINE Pack zero() { CRFRNN_LANES(0.0) }
  static CRFRNN_INLINE Pack set(double x) { CRFRNN_LANES(x) }
  static CRFRNN_INLINE Pack load(const double* p) { CRFRNN_LANES(p[i]) }
  struct Lanes {
    int64_t count;
    static CRFRNN_INLINE Lanes first(int64_t n) { return {n}; }
  };
  static CRFRNN_INLINE Pack load(const double* p, Lanes some) { CRFRNN_LANES(i < some.count ? p[i] : 0.0) }
  CRFRNN_INLINE void store(double* p) const {
    for (int i = 0; i < 8; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE void store(double* p, Lanes some) const {
    for (int i = 0; i < 8 && i < some.count; ++i) p[i] = v[i];
  }
  CRFRNN_INLINE Pack operator+(Pack o) const { CRFRNN_LANES(v[i] + o.v[i]) }
  CRFRNN_INLINE Pack operator-(Pack o) const { CRFRNN_LANES(v[i] - o.v[i]) }
  CRFRNN_INLINE Pack operator*(Pack o) const { CRFRNN_LANES(v[i] * o.v[i]) }
  static CRFRNN_INLINE Pack fma(Pack a, Pack b, Pack c) { CRFRNN_LANES(multiply_add(a.v[i], b.v[i], c.v[i])) }
  static CRFRNN_INLINE Pack floor(Pack a) { CRFRNN_LANES(std::floor(a.v[i])) }
  static CRFRNN_INLINE Pack ceil(Pack a) { CRFRNN_LANES(std::ceil(a.v[i])) }
  static CRFRNN_INLINE Pack less(Pack a, Pack b) { CRFRNN_LANES(a.v[i] < b.v[i] ? 1.0 : 0.0) }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack a) { CRFRNN_LANES(x.v[i] == y.v[i] ? a.v[i] : 0.0) }
  CRFRNN_INLINE double sum() const {
    double s = 0;
    for (int i = 0; i < 8; ++i) s += v[i];
    return s;
  }
#undef CRFRNN_LANES
};

// A square of packs, mirrored: lane j of pack i changes places with lane i of pack j.
CRFRNN_INLINE void transpose(Pack<float>* rows) {
#if defined(CRFRNN_ISA_avx512)
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {  // pairs of rows
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {  // fours of rows, inside each quarter of a pack
    b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {  // the quarters themselves
    const __m512 low = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), low2 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    const __m512 high = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88), high2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    rows[i].v = _mm512_shuffle_f32x4(low, high, 0x88);
    rows[i + 4].v = _mm512_shuffle_f32x4(low2, high2, 0x88);
    rows[i + 8].v = _mm512_shuffle_f32x4(low, high, 0xdd);
    rows[i + 12].v = _mm512_shuffle_f32x4(low2, high2, 0xdd);
  }
#else
  alignas(64) float tile[16][16], mirrored[16][16];
  for (int i = 0; i < 16; ++i) rows[i].store(tile[i]);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) mirrored[j][i] = tile[i][j];
  for (int i = 0; i < 16; ++i) rows[i] = Pack<float>::load(mirrored[i]);
#endif
}

// 2^f for f in [0, 1): a polynomial fitted to 7.5e-8 relative.
CRFRNN_INLINE Pack<float> exp2_fraction(Pack<float> f) {
  using P = Pack<float>;
  P p = P::fma(P::set(1.8775765e-3f), f, P::set(8.9893406e-3f));
  p = P::fma(p, f, P::set(5.5826318e-2f));
  p = P::fma(p, f, P::set(2.4015361e-1f));
  p = P::fma(p, f, P::set(6.9315308e-1f));
  return P::fma(p, f, P::set(0.99999994f));
}

// e^x = 2^t, t = x / ln 2, to 1e-6 relative for |x| <= 20; far below that 0 or next to nothing, far above it infinity or 2^127.
CRFRNN_INLINE Pack<float> exp(Pack<float> x) {
  using P = Pack<float>;
  const P t = x * P::set(1.44269504088896341f);
#if defined(CRFRNN_ISA_avx512)
  constexpr int fraction = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  return {_mm512_scalef_ps(exp2_fraction({_mm512_reduce_ps(t.v, fraction)}).v, t.v)};
#else
  const P bounded = P::min(P::max(t, P::set(-100.f)), P::set(127.f)), n = P::floor(bounded);
  return exp2_fraction(bounded - n) * P::exp2i(n);
#endif
}

}  // namespace CRFRNN_ISA
}  // namespace crfrnn
