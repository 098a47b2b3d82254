// SPDX-License-Identifier: MIT
// A pack of floats in two AVX2 registers.
#pragma once

#include <immintrin.h>

#include "pack.hpp"

namespace crfrnn::CRFRNN_ISA {

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
      const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                    most = _mm256_set1_epi32(static_cast<int>(n > 16 ? 16 : n));
      return {_mm256_cmpgt_epi32(most, lane),
              _mm256_cmpgt_epi32(most, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
    }
  };
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) {
    return {_mm256_maskload_ps(p, some.a), _mm256_maskload_ps(p + 8, some.b)};
  }
  static CRFRNN_INLINE Pack select(Lanes some, Pack x, Pack y) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(some.a)),
            _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(some.b))};
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
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), one),
            _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ), one)};
  }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack z) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), z.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ), z.b)};
  }
  // 2^n for integral n in [-126, 127]
  static CRFRNN_INLINE Pack exp2i(Pack n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
  }
  static CRFRNN_INLINE Pack exp2(Pack t) { return exp2_by_parts(t); }
  // One row of W numbers.
  template <int W>
  static CRFRNN_INLINE Pack load_row(const float* p) {
    if constexpr (W == 4) return {_mm256_zextps128_ps256(_mm_loadu_ps(p)), _mm256_setzero_ps()};
    return {_mm256_loadu_ps(p), _mm256_setzero_ps()};
  }
  template <int W>
  CRFRNN_INLINE void store_row(float* p) const {
    if constexpr (W == 4)
      _mm_storeu_ps(p, _mm256_castps256_ps128(a));
    else
      _mm256_storeu_ps(p, a);
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack rows(const At& at) {
    if constexpr (W == 4)
      return {_mm256_loadu2_m128(at(1), at(0)), _mm256_loadu2_m128(at(3), at(2))};
    else
      return {_mm256_loadu_ps(at(0)), _mm256_loadu_ps(at(1))};
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack spread(const At& at) {
    const auto one = [&](int g) { return _mm256_broadcast_ss(at(g)); };
    if constexpr (W == 4)
      return {_mm256_blend_ps(one(0), one(1), 0xf0), _mm256_blend_ps(one(2), one(3), 0xf0)};
    else
      return {one(0), one(1)};
  }
  template <int W>
  CRFRNN_INLINE Pack part_sums() const {
    const auto sums = [](__m256 s) {
      if constexpr (W == 8) s = _mm256_add_ps(s, _mm256_permute2f128_ps(s, s, 1));
      s = _mm256_add_ps(s, _mm256_permute_ps(s, 0x4e));
      return _mm256_add_ps(s, _mm256_permute_ps(s, 0xb1));
    };
    return {sums(a), sums(b)};
  }
  template <int W, int F>
  static CRFRNN_INLINE Pack field(const float* x) {
    return spread<W>([&](int g) CRFRNN_INLINE_LAMBDA { return x + 4 * g + F; });
  }
  template <int W, int F>
  CRFRNN_INLINE void store_field(float* x) const {
    alignas(32) float lane[lanes];
    store(lane);
    for (int g = 0; g < lanes / W; ++g) x[4 * g + F] = lane[g * W];
  }
  CRFRNN_INLINE Pack operator/(Pack o) const { return {_mm256_div_ps(a, o.a), _mm256_div_ps(b, o.b)}; }
  static CRFRNN_INLINE bool all_less(Pack x, Pack y) {
    return _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ),
                                            _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))) == 0xff;
  }
  static CRFRNN_INLINE void transpose(Pack* rows) { transpose_in_memory<Pack, float>(rows); }
};

// One register or two, without a mask: on some processors a masked store takes dozens of cycles.
template <>
struct RowEnd<float> {
  static constexpr int grain = 8;
  bool both;
  explicit RowEnd(int64_t lanes) : both(lanes > 8) {}
  CRFRNN_INLINE Pack<float> load(const float* p) const {
    return {_mm256_loadu_ps(p), both ? _mm256_loadu_ps(p + 8) : _mm256_setzero_ps()};
  }
  CRFRNN_INLINE void store(const Pack<float>& pack, float* p) const {
    _mm256_storeu_ps(p, pack.a);
    if (both) _mm256_storeu_ps(p + 8, pack.b);
  }
};

}  // namespace crfrnn::CRFRNN_ISA
