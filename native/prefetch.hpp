// SPDX-License-Identifier: MIT
// Prefetching: the addresses of the rows of scattered pixels and vertices are known long before they are
// read.
#pragma once

#include <cstdint>

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
#include <xmmintrin.h>
#endif

#if defined(_MSC_VER)
#define CRFRNN_INLINE __forceinline
#define CRFRNN_INLINE_LAMBDA
#define CRFRNN_NOINLINE __declspec(noinline)
#else
#define CRFRNN_INLINE inline __attribute__((always_inline))
#define CRFRNN_INLINE_LAMBDA __attribute__((always_inline))
#define CRFRNN_NOINLINE __attribute__((noinline))
#endif

namespace crfrnn {

// Prefetches the cache line at p. Always inlined, because sources of every instruction set contain it.
CRFRNN_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p);
#elif defined(_M_X64) || defined(_M_IX86)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  (void)p;
#endif
}

// The same for a line that will be written: if another core has written it last, it does not need to be asked
// again. In assembly, because compilers write another instruction unless a flag says that the processor has
// this one; older processors ignore it.
CRFRNN_INLINE void prefetch_to_write(const void* p) {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
#elif defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 1);
#else
  prefetch(p);
#endif
}

constexpr int64_t ahead = 16;  // rows between the prefetch of a row and its read
// The same for narrow rows, which take little time: arrays that are read in order, too, because a walk reads
// a dozen of them in turn and the processor's own prefetching does not follow.
constexpr int64_t far_ahead = 64;

CRFRNN_INLINE void prefetch_bytes(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) prefetch(static_cast<const char*>(p) + at);
}

}  // namespace crfrnn
