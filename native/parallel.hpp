// SPDX-License-Identifier: MIT
// One loop over independent tasks. Which thread runs a task never changes what the task computes.
#pragma once

#include <cstdint>

#ifdef CRFRNN_OPENMP
#include <omp.h>
#else
#include <atomic>
#include <thread>
#include <vector>
#endif

#if defined(CRFRNN_X86)
#include <xmmintrin.h>
#endif

namespace crfrnn {

// Numbers below the smallest normal one count as zero while this lives: a softmax is full of them, and each costs x86
// processors some 150 cycles otherwise.
class FlushDenormals {
#if defined(CRFRNN_X86)
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
#else
 public:
  FlushDenormals() {}
#endif
};

// task(index, worker), 0 <= worker < max(threads, 1): a worker runs one task at a time, so it may own scratch memory.
template <class Task>
void parallel_for(int64_t tasks, int threads, const Task& task) {
  if (threads <= 1 || tasks <= 1) {
    const FlushDenormals flush;
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
    return;
  }
#ifdef CRFRNN_OPENMP
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; ++i) task(i, omp_get_thread_num());
  }
#else
  std::atomic<int64_t> next{0};
  auto work = [&](int worker) {
    const FlushDenormals flush;
    for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) task(i, worker);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads && t < tasks; ++t) others.emplace_back(work, t);
  work(0);
  for (auto& other : others) other.join();
#endif
}

// Splits [0, n) into equal ranges of at least `grain`; task(begin, end).
template <class Task>
void parallel_ranges(int64_t n, int64_t grain, int threads, const Task& task) {
  int64_t count = n / grain < 1 ? 1 : n / grain;
  const int64_t most = 4 * static_cast<int64_t>(threads < 1 ? 1 : threads);
  if (count > most) count = most;
  if (threads <= 1) count = 1;
  parallel_for(count, threads, [&](int64_t i, int) { task(n * i / count, n * (i + 1) / count); });
}

}  // namespace crfrnn
