// SPDX-License-Identifier: MIT
// One loop over independent tasks. Which thread runs a task never changes what the task computes. Its code is
// compiled once, for the baseline instruction set; what a task throws reaches the caller.
#pragma once

#include <cstdint>

namespace crfrnn {

// While one lives, check_stop() in the thread that made it calls `ask` now and then. What `ask` throws ends
// the call; false: it need not be asked again.
class Asking {
 public:
  explicit Asking(bool (*ask)());
  ~Asking();
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 private:
  bool (*outer_)();  // that of a call which is waiting for this one: what `ask` runs may call the core again
};

// Between two pieces of work, in any thread: throws if the call is to end, because it was asked to or because
// another task of the same loop has thrown. Takes some 30 ns.
void check_stop();

using TaskFunction = void (*)(const void* task, int64_t index, int worker);
void run_tasks(int64_t tasks, int threads, TaskFunction function, const void* task);

// task(index, worker), 0 <= worker < max(threads, 1): a worker runs one task at a time, so it may own scratch
// memory. After an exception no further task begins, and the first exception is thrown again when all threads
// have left the loop.
template <class Task>
void parallel_for(int64_t tasks, int threads, const Task& task) {
  run_tasks(
      tasks, threads,
      [](const void* t, int64_t index, int worker) { (*static_cast<const Task*>(t))(index, worker); }, &task);
}

constexpr int64_t unasked = 1 << 16;  // items of a loop between two calls of check_stop()

// Splits [0, n) into equal ranges of at least `grain`; task(begin, end).
template <class Task>
void parallel_ranges(int64_t n, int64_t grain, int threads, const Task& task) {
  int64_t count = n / grain < 1 ? 1 : n / grain;
  const int64_t most = threads <= 1 ? 1 : 4 * static_cast<int64_t>(threads);
  if (count > most) count = most;
  if (count < n / unasked) count = n / unasked;
  parallel_for(count, threads, [&](int64_t i, int) { task(n * i / count, n * (i + 1) / count); });
}

// body(i) for [begin, end), in order.
template <class Body>
void each_in_turn(int64_t begin, int64_t end, const Body& body) {
  for (int64_t i = begin; i < end;) {
    check_stop();
    for (const int64_t next = end - i < unasked ? end : i + unasked; i < next; ++i) body(i);
  }
}

}  // namespace crfrnn
