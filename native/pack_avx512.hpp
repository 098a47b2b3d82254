// SPDX-License-Identifier: MIT
// A pack of floats in one AVX-512 register.
#pragma once

#include <immintrin.h>

#include "pack.hpp"

namespace crfrnn::CRFRNN_ISA {

template <>
struct Pack<float> {
  static constexpr int lanes = 16;
  __m512 v;
  // A prefix of the lanes.
  struct Lanes {
    __mmask16 bits;
    static CRFRNN_INLINE Lanes first(int64_t n) {
      return {static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << (n < 0 ? 0 : n)) - 1u)};
    }
  };
  static CRFRNN_INLINE Pack zero() { return {_mm512_setzero_ps()}; }
  static CRFRNN_INLINE Pack set(float x) { return {_mm512_set1_ps(x)}; }
  static CRFRNN_INLINE Pack load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) { return {_mm512_maskz_loadu_ps(some.bits, p)}; }
  // a in the lanes of `some`, b in the others.
  static CRFRNN_INLINE Pack select(Lanes some, Pack a, Pack b) {
    return {_mm512_mask_mov_ps(b.v, some.bits, a.v)};
  }
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
  static CRFRNN_INLINE Pack floor(Pack a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  }
  static CRFRNN_INLINE Pack ceil(Pack a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)};
  }
  // 1 where a < b, else 0
  static CRFRNN_INLINE Pack less(Pack a, Pack b) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), _mm512_set1_ps(1.f))};
  }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_EQ_OQ), a.v)};
  }
  static CRFRNN_INLINE Pack exp2(Pack t) {
    constexpr int fraction = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    return {_mm512_scalef_ps(exp2_fraction(Pack{_mm512_reduce_ps(t.v, fraction)}).v, t.v)};
  }
  // One row of W numbers.
  template <int W>
  static CRFRNN_INLINE Pack load_row(const float* p) {
    if constexpr (W == 4) return {_mm512_zextps128_ps512(_mm_loadu_ps(p))};
    return {_mm512_zextps256_ps512(_mm256_loadu_ps(p))};
  }
  template <int W>
  CRFRNN_INLINE void store_row(float* p) const {
    if constexpr (W == 4)
      _mm_storeu_ps(p, _mm512_castps512_ps128(v));
    else
      _mm256_storeu_ps(p, _mm512_castps512_ps256(v));
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack rows(const At& at) {
    if constexpr (W == 4) {
      const auto quarter = [&](int g) { return _mm_loadu_ps(at(g)); };
      __m512 r = _mm512_zextps128_ps512(quarter(0));
      r = _mm512_mask_broadcast_f32x4(r, 0x00f0, quarter(1));
      r = _mm512_mask_broadcast_f32x4(r, 0x0f00, quarter(2));
      return {_mm512_mask_broadcast_f32x4(r, 0xf000, quarter(3))};
    }
    return {_mm512_mask_broadcast_f32x8(_mm512_zextps256_ps512(_mm256_loadu_ps(at(0))), 0xff00,
                                        _mm256_loadu_ps(at(1)))};
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack spread(const At& at) {
    const auto one = [&](int g) { return _mm_load_ss(at(g)); };
    __m512 r = _mm512_broadcastss_ps(one(0));
    if constexpr (W == 4) {
      r = _mm512_mask_broadcastss_ps(r, 0x00f0, one(1));
      r = _mm512_mask_broadcastss_ps(r, 0x0f00, one(2));
      return {_mm512_mask_broadcastss_ps(r, 0xf000, one(3))};
    }
    return {_mm512_mask_broadcastss_ps(r, 0xff00, one(1))};
  }
  // spread_columns() of narrow.hpp for six numbers a part.
  template <int W>
  static CRFRNN_INLINE void spread_columns(const float* table, Pack* out, std::integral_constant<int, 6>) {
    const __m512i part = W == 4 ? _mm512_setr_epi32(0, 0, 0, 0, 6, 6, 6, 6, 20, 20, 20, 20, 26, 26, 26, 26)
                                : _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 6, 6, 6, 6, 6, 6, 6, 6);
    if constexpr (W == 4) {  // numbers 0 to 15, and 8 to 23 as numbers 16 to 31 of a pair of registers
      const __m512 low = _mm512_loadu_ps(table), high = _mm512_loadu_ps(table + 8);
      for (int k = 0; k < 6; ++k) {
        const __m512i last = _mm512_set1_epi32(k);
        out[k].v = _mm512_permutex2var_ps(low, _mm512_add_epi32(part, last), high);
      }
    } else {
      const __m512 all = _mm512_maskz_loadu_ps(0x0fff, table);
      for (int k = 0; k < 6; ++k)
        out[k].v = _mm512_permutexvar_ps(_mm512_add_epi32(part, _mm512_set1_epi32(k)), all);
    }
  }
  // Number F of four in all lanes of part g: x[4 g + F].
  template <int W, int F>
  static CRFRNN_INLINE Pack field(const float* x) {
    if constexpr (W == 4) return {_mm512_permute_ps(_mm512_loadu_ps(x), F * 0x55)};
    const __m512i part =
        _mm512_setr_epi32(F, F, F, F, F, F, F, F, 4 + F, 4 + F, 4 + F, 4 + F, 4 + F, 4 + F, 4 + F, 4 + F);
    return {_mm512_permutexvar_ps(part, _mm512_zextps256_ps512(_mm256_loadu_ps(x)))};
  }
  // The first lane of part g to x[4 g + F].
  template <int W, int F>
  CRFRNN_INLINE void store_field(float* x) const {
    if constexpr (W == 4) {
      _mm512_storeu_ps(x, _mm512_mask_mov_ps(_mm512_loadu_ps(x), 0x1111 << F, v));
    } else {
      const __m256 both = _mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0x08));
      _mm256_storeu_ps(x, _mm256_blend_ps(_mm256_loadu_ps(x), both, 0x11 << F));
    }
  }
  template <int W>
  CRFRNN_INLINE Pack part_sums() const {
    __m512 s = v;
    if constexpr (W == 8) s = _mm512_add_ps(s, _mm512_shuffle_f32x4(s, s, 0xb1));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    return {_mm512_add_ps(s, _mm512_permute_ps(s, 0xb1))};
  }
  CRFRNN_INLINE Pack operator/(Pack o) const { return {_mm512_div_ps(v, o.v)}; }
  static CRFRNN_INLINE bool all_less(Pack a, Pack b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ) == 0xffff;
  }
  static CRFRNN_INLINE void transpose(Pack* rows) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {  // pairs of rows
      a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
      a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    for (int i = 0; i < 16; i += 4) {  // groups of four rows, inside each quarter of a pack
      b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
      b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
      b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
      b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {  // the quarters themselves
      const __m512 low = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88),
                   low2 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
      const __m512 high = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88),
                   high2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
      rows[i].v = _mm512_shuffle_f32x4(low, high, 0x88);
      rows[i + 4].v = _mm512_shuffle_f32x4(low2, high2, 0x88);
      rows[i + 8].v = _mm512_shuffle_f32x4(low, high, 0xdd);
      rows[i + 12].v = _mm512_shuffle_f32x4(low2, high2, 0xdd);
    }
  }
};

// Half a register or a whole one: the branch is always predicted, while a mask made a forward pass 4 %
// slower.
template <>
struct RowEnd<float> {
  static constexpr int grain = 8;
  bool whole;
  explicit RowEnd(int64_t lanes) : whole(lanes > 8) {}
  CRFRNN_INLINE Pack<float> load(const float* p) const {
    return whole ? Pack<float>::load(p) : Pack<float>{_mm512_zextps256_ps512(_mm256_loadu_ps(p))};
  }
  CRFRNN_INLINE void store(const Pack<float>& pack, float* p) const {
    if (whole)
      pack.store(p);
    else
      _mm256_storeu_ps(p, _mm512_castps512_ps256(pack.v));
  }
};

}  // namespace crfrnn::CRFRNN_ISA
