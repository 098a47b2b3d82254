// SPDX-License-Identifier: MIT
// The pack of the instruction set that a source is compiled for, and its exponential function.
#pragma once

#include "pack.hpp"

#if defined(CRFRNN_ISA_avx512)
#include "pack_avx512.hpp"
#elif defined(CRFRNN_ISA_avx2)
#include "pack_avx2.hpp"
#elif defined(__aarch64__)
#include "pack_neon.hpp"
#endif

namespace crfrnn::CRFRNN_ISA {

// Whether loops with a data-dependent length are also compiled for the usual constant lengths. Not for the
// baseline of x86: only processors older than 2013 use it, and the specialised copies made it slower to
// compile than the other instruction sets.
#if defined(CRFRNN_X86) && defined(CRFRNN_ISA_baseline)
#define CRFRNN_SPECIALISED 0
#else
#define CRFRNN_SPECIALISED 1
#endif
constexpr bool specialised = CRFRNN_SPECIALISED;

constexpr int most_packs = 64;   // in a row, if their number is not a constant: 1024 labels
constexpr int narrow_packs = 4;  // in a row that fits in registers: 64 labels

// e^x = 2^t, t = x / ln 2, with a relative error of 1e-6 for |x| <= 20. Far below this range the result is
// zero or nearly zero, far above it infinity or 2^127.
CRFRNN_INLINE Pack<float> exp(Pack<float> x) {
  return Pack<float>::exp2(x * Pack<float>::set(1.44269504088896341f));
}

}  // namespace crfrnn::CRFRNN_ISA
