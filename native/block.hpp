// SPDX-License-Identifier: MIT
// Sizes of blocks and tables that are chosen for the cache, or so that a thread has enough to do. The
// coverage-guided fuzzer is built with small ones: a few points then have several blocks, and a case takes
// microseconds. Powers of two.
#pragma once

#include <cstdint>

namespace crfrnn {

#ifdef CRFRNN_GUIDED
constexpr int64_t block_size(int64_t, int64_t guided) { return guided; }
#else
constexpr int64_t block_size(int64_t usual, int64_t) { return usual; }
#endif

}  // namespace crfrnn
