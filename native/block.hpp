// SPDX-License-Identifier: MIT
// Sizes of blocks and tables that are chosen for the cache, or so that a thread has enough to do. Two builds
// have small ones, so that a few points have several blocks: the coverage-guided fuzzer, whose cases then
// take microseconds, and that with the thread sanitizer. Powers of two.
#pragma once

#include <cstdint>

namespace crfrnn {

#ifdef CRFRNN_SMALL_BLOCKS
constexpr int64_t block_size(int64_t, int64_t small) { return small; }
#else
constexpr int64_t block_size(int64_t usual, int64_t) { return usual; }
#endif

}  // namespace crfrnn
