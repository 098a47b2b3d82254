// SPDX-License-Identifier: MIT
// A pack of floats in four registers of 64-bit ARM, which has 32 of them.
#pragma once

#include <arm_neon.h>

#include "pack.hpp"

namespace crfrnn::CRFRNN_ISA {

template <>
struct Pack<float> {
  static constexpr int lanes = 16;
  using Quad = float32x4_t;
  Quad a, b, c, d;

  struct Lanes {
    int64_t count;
    uint32x4_t a, b, c, d;  // all bits set in the selected lanes
    static CRFRNN_INLINE Lanes first(int64_t n) {
      static constexpr uint32_t number[4] = {0, 1, 2, 3};
      const uint32x4_t lane = vld1q_u32(number), most = vdupq_n_u32(n > 16  ? 16u
                                                                    : n < 0 ? 0u
                                                                            : static_cast<uint32_t>(n));
      const auto below = [&](uint32_t from) { return vcltq_u32(vaddq_u32(lane, vdupq_n_u32(from)), most); };
      return {n, below(0), below(4), below(8), below(12)};
    }
  };
  // Loads the first n of four numbers; nothing after them is accessed.
  static CRFRNN_INLINE Quad load_quad(const float* p, int64_t n) {
    const Quad none = vdupq_n_f32(0.f);
    if (n >= 4) return vld1q_f32(p);
    if (n == 3) return vld1q_lane_f32(p + 2, vcombine_f32(vld1_f32(p), vget_low_f32(none)), 2);
    if (n == 2) return vcombine_f32(vld1_f32(p), vget_low_f32(none));
    return n == 1 ? vld1q_lane_f32(p, none, 0) : none;
  }
  static CRFRNN_INLINE void store_quad(float* p, Quad q, int64_t n) {
    if (n >= 4) return vst1q_f32(p, q);
    if (n >= 2) vst1_f32(p, vget_low_f32(q));
    if (n == 3) vst1q_lane_f32(p + 2, q, 2);
    if (n == 1) vst1q_lane_f32(p, q, 0);
  }
  static CRFRNN_INLINE Quad both(Quad q, uint32x4_t bits) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(q), bits));
  }

  static CRFRNN_INLINE Pack set(float x) {
    return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)};
  }
  static CRFRNN_INLINE Pack zero() { return set(0.f); }
  static CRFRNN_INLINE Pack load(const float* p) {
    return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
  }
  static CRFRNN_INLINE Pack load(const float* p, Lanes some) {
    const int64_t n = some.count;
    return {load_quad(p, n), load_quad(p + 4, n - 4), load_quad(p + 8, n - 8), load_quad(p + 12, n - 12)};
  }
  static CRFRNN_INLINE Pack select(Lanes s, Pack x, Pack y) {
    return {vbslq_f32(s.a, x.a, y.a), vbslq_f32(s.b, x.b, y.b), vbslq_f32(s.c, x.c, y.c),
            vbslq_f32(s.d, x.d, y.d)};
  }
  CRFRNN_INLINE void store(float* p) const {
    vst1q_f32(p, a);
    vst1q_f32(p + 4, b);
    vst1q_f32(p + 8, c);
    vst1q_f32(p + 12, d);
  }
  CRFRNN_INLINE void store(float* p, Lanes some) const {
    const int64_t n = some.count;
    store_quad(p, a, n);
    store_quad(p + 4, b, n - 4);
    store_quad(p + 8, c, n - 8);
    store_quad(p + 12, d, n - 12);
  }
#define CRFRNN_QUADS(f, x, y) {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)}
  CRFRNN_INLINE Pack operator+(Pack o) const { return CRFRNN_QUADS(vaddq_f32, (*this), o); }
  CRFRNN_INLINE Pack operator-(Pack o) const { return CRFRNN_QUADS(vsubq_f32, (*this), o); }
  CRFRNN_INLINE Pack operator*(Pack o) const { return CRFRNN_QUADS(vmulq_f32, (*this), o); }
  static CRFRNN_INLINE Pack max(Pack x, Pack y) { return CRFRNN_QUADS(vmaxq_f32, x, y); }
  static CRFRNN_INLINE Pack min(Pack x, Pack y) { return CRFRNN_QUADS(vminq_f32, x, y); }
  static CRFRNN_INLINE Pack fma(Pack x, Pack y, Pack z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
            vfmaq_f32(z.d, x.d, y.d)};
  }
  CRFRNN_INLINE float sum() const { return vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))); }
  CRFRNN_INLINE float most() const { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a, b), vmaxq_f32(c, d))); }
  static CRFRNN_INLINE Pack floor(Pack x) {
    return {vrndmq_f32(x.a), vrndmq_f32(x.b), vrndmq_f32(x.c), vrndmq_f32(x.d)};
  }
  static CRFRNN_INLINE Pack ceil(Pack x) {
    return {vrndpq_f32(x.a), vrndpq_f32(x.b), vrndpq_f32(x.c), vrndpq_f32(x.d)};
  }
  static CRFRNN_INLINE Pack less(Pack x, Pack y) {
    const Quad one = vdupq_n_f32(1.f);
    return {both(one, vcltq_f32(x.a, y.a)), both(one, vcltq_f32(x.b, y.b)), both(one, vcltq_f32(x.c, y.c)),
            both(one, vcltq_f32(x.d, y.d))};
  }
  static CRFRNN_INLINE Pack if_equal(Pack x, Pack y, Pack z) {
    return {both(z.a, vceqq_f32(x.a, y.a)), both(z.b, vceqq_f32(x.b, y.b)), both(z.c, vceqq_f32(x.c, y.c)),
            both(z.d, vceqq_f32(x.d, y.d))};
  }
  static CRFRNN_INLINE Quad exp2i(Quad n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static CRFRNN_INLINE Pack exp2i(Pack n) { return {exp2i(n.a), exp2i(n.b), exp2i(n.c), exp2i(n.d)}; }
  static CRFRNN_INLINE Pack exp2(Pack t) { return exp2_by_parts(t); }
  // One row of W numbers.
  template <int W>
  static CRFRNN_INLINE Pack load_row(const float* p) {
    const Quad none = vdupq_n_f32(0.f);
    return {vld1q_f32(p), W == 8 ? vld1q_f32(p + W - 4) : none, none, none};
  }
  template <int W>
  CRFRNN_INLINE void store_row(float* p) const {
    vst1q_f32(p, a);
    if constexpr (W == 8) vst1q_f32(p + 4, b);
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack rows(const At& at) {
    if constexpr (W == 4)
      return {vld1q_f32(at(0)), vld1q_f32(at(1)), vld1q_f32(at(2)), vld1q_f32(at(3))};
    else
      return {vld1q_f32(at(0)), vld1q_f32(at(0) + 4), vld1q_f32(at(1)), vld1q_f32(at(1) + 4)};
  }
  template <int W, class At>
  static CRFRNN_INLINE Pack spread(const At& at) {
    const auto one = [&](int quad) { return vld1q_dup_f32(at(4 * quad / W)); };
    return {one(0), one(1), one(2), one(3)};
  }
  template <int W>
  CRFRNN_INLINE Pack part_sums() const {
    const auto all = [](Quad q) { return vdupq_n_f32(vaddvq_f32(q)); };
    if constexpr (W == 4) return {all(a), all(b), all(c), all(d)};
    const Quad low = all(vaddq_f32(a, b)), high = all(vaddq_f32(c, d));
    return {low, low, high, high};
  }
  template <int W, int F>
  static CRFRNN_INLINE Pack field(const float* x) {
    return spread<W>([&](int g) CRFRNN_INLINE_LAMBDA { return x + 4 * g + F; });
  }
  template <int W, int F>
  CRFRNN_INLINE void store_field(float* x) const {
    const Quad quads[4] = {a, b, c, d};
    for (int g = 0; g < lanes / W; ++g) x[4 * g + F] = vgetq_lane_f32(quads[g * W / 4], 0);
  }
  CRFRNN_INLINE Pack operator/(Pack o) const { return CRFRNN_QUADS(vdivq_f32, (*this), o); }
  static CRFRNN_INLINE bool all_less(Pack x, Pack y) {
    const uint32x4_t less = vandq_u32(vandq_u32(vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b)),
                                      vandq_u32(vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d)));
    return vminvq_u32(less) != 0;
  }

  // Transposes four rows of four.
  static CRFRNN_INLINE void transpose(Quad& p, Quad& q, Quad& r, Quad& s) {
    const auto wide = [](Quad x) { return vreinterpretq_f64_f32(x); };
    const Quad pq = vtrn1q_f32(p, q), rs = vtrn1q_f32(r, s), pq2 = vtrn2q_f32(p, q), rs2 = vtrn2q_f32(r, s);
    p = vreinterpretq_f32_f64(vtrn1q_f64(wide(pq), wide(rs)));
    q = vreinterpretq_f32_f64(vtrn1q_f64(wide(pq2), wide(rs2)));
    r = vreinterpretq_f32_f64(vtrn2q_f64(wide(pq), wide(rs)));
    s = vreinterpretq_f32_f64(vtrn2q_f64(wide(pq2), wide(rs2)));
  }
  static CRFRNN_INLINE void transpose(Pack* rows) {
    constexpr Quad Pack::* quad[4] = {&Pack::a, &Pack::b, &Pack::c, &Pack::d};
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j)
        transpose(rows[4 * i].*quad[j], rows[4 * i + 1].*quad[j], rows[4 * i + 2].*quad[j],
                  rows[4 * i + 3].*quad[j]);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < i; ++j)
        for (int k = 0; k < 4; ++k) {
          const Quad kept = rows[4 * i + k].*quad[j];
          rows[4 * i + k].*quad[j] = rows[4 * j + k].*quad[i];
          rows[4 * j + k].*quad[i] = kept;
        }
  }
#undef CRFRNN_QUADS
};

}  // namespace crfrnn::CRFRNN_ISA
