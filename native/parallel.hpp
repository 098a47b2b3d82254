// SPDX-License-Identifier: MIT
// A parallel loop over independent tasks. The result of a task never depends on the thread that runs it.
// Compiled once, for the baseline instruction set; exceptions of tasks propagate to the caller.
#pragma once

#include <cstdint>

#include "block.hpp"

namespace crfrnn {

// During the lifetime of this object, check_stop() calls `ask` occasionally in the thread that created it. An
// exception thrown by `ask` ends the call; if `ask` returns false, it is not called again.
class Asking {
 public:
  explicit Asking(bool (*ask)());
  ~Asking();
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 private:
  bool (*outer_)();  // `ask` of an outer call that waits for this one, since `ask` may itself call the core
};

// Called between two pieces of work, in any thread. Throws if the call has to end, because `ask` threw or
// because another task of the same loop did. Takes about 30 ns.
void check_stop();

using TaskFunction = void (*)(const void* task, int64_t index, int worker);
void run_tasks(int64_t tasks, int threads, TaskFunction function, const void* task);

// Calls task(index, worker), 0 <= worker < max(threads, 1). A worker runs one task at a time, so scratch
// memory can be allocated per worker. After an exception no further task begins, and the first exception is
// rethrown when all threads have left the loop.
template <class Task>
void parallel_for(int64_t tasks, int threads, const Task& task) {
  run_tasks(
      tasks, threads,
      [](const void* t, int64_t index, int worker) { (*static_cast<const Task*>(t))(index, worker); }, &task);
}

// Iterations of a loop between two calls of check_stop().
constexpr int64_t unasked = block_size(1 << 16, 64);

// Splits [0, n) into equal ranges of at least `grain` and calls task(begin, end) for each.
template <class Task>
void parallel_ranges(int64_t n, int64_t grain, int threads, const Task& task) {
  int64_t count = n / grain < 1 ? 1 : n / grain;
  const int64_t most = threads <= 1 ? 1 : 4 * static_cast<int64_t>(threads);
  if (count > most) count = most;
  if (count < n / unasked) count = n / unasked;
  parallel_for(count, threads, [&](int64_t i, int) { task(n * i / count, n * (i + 1) / count); });
}

// Calls body(i) for [begin, end), in order.
template <class Body>
void each_in_turn(int64_t begin, int64_t end, const Body& body) {
  for (int64_t i = begin; i < end;) {
    check_stop();
    for (const int64_t next = end - i < unasked ? end : i + unasked; i < next; ++i) body(i);
  }
}

}  // namespace crfrnn
