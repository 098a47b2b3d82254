// SPDX-License-Identifier: MIT
#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>

#ifdef CRFRNN_OPENMP
#include <omp.h>
#else
#include <system_error>
#include <thread>
#include <vector>
#endif

#if defined(CRFRNN_X86)
#include <xmmintrin.h>
#endif

namespace crfrnn {
namespace {

// Flushes denormals to zero during its lifetime: a softmax produces many of them, and each costs about 150
// cycles on x86 processors otherwise.
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

struct Stopped {};  // thrown to leave a task whose loop has failed in another thread

// A loop distributed over threads. No exception may escape a thread of OpenMP or std::thread, because that
// would abort the process.
class Loop {
 public:
  explicit Loop(const Loop* outer) : outer_(outer) {}

  bool failed() const { return failed_.load(std::memory_order_relaxed) || (outer_ && outer_->failed()); }
  void keep_exception() {
    if (!failed_.exchange(true)) first_ = std::current_exception();
  }
  void rethrow() const {  // called when all threads have left
    if (first_) std::rethrow_exception(first_);
  }

 private:
  const Loop* outer_;
  std::atomic<bool> failed_{false};
  std::exception_ptr first_;
};

using Clock = std::chrono::steady_clock;
constexpr auto shortest_pause = std::chrono::milliseconds(50), longest_pause = std::chrono::milliseconds(200);

struct Question {
  bool (*ask)() = nullptr;
  Clock::time_point next;

  void operator()() {
    const auto now = Clock::now();
    if (now < next) return;
    if (!ask()) {
      ask = nullptr;
      return;
    }
    // The check may wait for a lock; it is then done less often, to take less than a twentieth of the time.
    const auto after = Clock::now();
    next = after + std::clamp<Clock::duration>(20 * (after - now), shortest_pause, longest_pause);
  }
};

thread_local Question question;           // of the calling thread
thread_local const Loop* loop = nullptr;  // the loop whose task this thread runs

// The tasks of a loop, divided into one range per thread, so that successive loops over the same arrays give
// each thread what is already in its cache: a line that another core has written costs ten times as much. A
// thread whose range is finished takes tasks from the ends of other ranges. If there are more threads than
// ranges, threads share a range.
class Tasks {
 public:
  Tasks(int64_t tasks, int threads) : ranges_(threads < most_ranges ? threads : most_ranges) {
    for (int r = 0; r < ranges_; ++r)
      left_[r].value.store(packed(tasks * r / ranges_, tasks * (r + 1) / ranges_), std::memory_order_relaxed);
  }
  // The next task of a worker, or -1.
  int64_t take(int worker) {
    for (int other = 0; other < ranges_; ++other) {
      std::atomic<uint64_t>& left = left_[(worker + other) % ranges_].value;
      uint64_t range = left.load(std::memory_order_relaxed);
      while (begin(range) < end(range)) {
        const int64_t first = begin(range), last = end(range) - 1;
        if (left.compare_exchange_weak(range, other ? packed(first, last) : packed(first + 1, last + 1)))
          return other ? last : first;
      }
    }
    return -1;
  }

 private:
  static constexpr int most_ranges = 64;
  struct alignas(64) Left {  // in a cache line of its own
    std::atomic<uint64_t> value;
  };
  static uint64_t packed(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end);
  }
  static int64_t begin(uint64_t range) { return static_cast<int64_t>(range >> 32); }
  static int64_t end(uint64_t range) { return static_cast<int64_t>(range & 0xffffffff); }

  int ranges_;
  Left left_[most_ranges];
};

// One thread's share of a loop.
[[maybe_unused]] void work(Loop& own, Tasks& tasks, TaskFunction function, const void* task, int worker) {
  const FlushDenormals flush;
  const Loop* const outer = loop;
  loop = &own;
  try {
    for (int64_t i = tasks.take(worker); i >= 0; i = tasks.take(worker)) {
      check_stop();
      function(task, i, worker);
    }
  } catch (...) {
    own.keep_exception();
  }
  loop = outer;
}

}  // namespace

Asking::Asking(bool (*ask)()) : outer_(question.ask) { question = {ask, Clock::now() + shortest_pause}; }
Asking::~Asking() { question.ask = outer_; }

void check_stop() {
  if (loop && loop->failed()) throw Stopped{};
  if (question.ask) question();
}

void run_tasks(int64_t tasks, int threads, TaskFunction function, const void* task) {
  if (threads <= 1 || tasks <= 1) {
    const FlushDenormals flush;
    for (int64_t i = 0; i < tasks; ++i) {
      check_stop();
      function(task, i, 0);
    }
    return;
  }
  Tasks left(tasks, threads);
#ifdef CRFRNN_GUIDED
  // The workers take turns in this thread, since starting others takes longer than a case of the fuzzer.
  const FlushDenormals flush;
  int worker = 0;
  for (int64_t i = left.take(0); i >= 0; i = left.take(worker)) {
    check_stop();
    function(task, i, worker);
    worker = (worker + 1) % threads;
  }
#else
  Loop own(loop);
#ifdef CRFRNN_OPENMP
#pragma omp parallel num_threads(threads)
  work(own, left, function, task, omp_get_thread_num());
#else
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(std::min<int64_t>(threads, tasks)));
  try {
    for (int t = 1; t < threads && t < tasks; ++t)
      others.emplace_back(work, std::ref(own), std::ref(left), function, task, t);
  } catch (const std::system_error&) {  // no more threads available: the existing ones do the work
  }
  work(own, left, function, task, 0);
  for (auto& other : others) other.join();
#endif
  own.rethrow();
#endif
}

}  // namespace crfrnn
