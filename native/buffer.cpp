// SPDX-License-Identifier: MIT
#include "buffer.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>

#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace crfrnn {
namespace {

constexpr size_t line = 64, page = 4096, huge_page = size_t{2} << 20;

// The system clears memory page by page before handing it out, which took a fifth of a training step. Large
// blocks therefore come from one retained region of address space: its pages are cleared once, when first
// touched, and blocks freed by one part of a call are reused by the next. Allocation is first fit from the
// lowest address, so the touched part is no larger than the peak use. Blocks that do not fit are requested
// from the system.
class Region {
 public:
  static constexpr size_t size = size_t{256} << 20, most_blocks = 64;

  Region() {
    try {
      base_ = static_cast<char*>(allocate(size));
    } catch (const std::bad_alloc&) {  // not enough address space: every block is requested from the system
      return;
    }
    free_[0] = {0, size};
    ranges_ = 1;
  }

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (blocks_ == most_blocks) return nullptr;
    for (size_t i = 0; i < ranges_; ++i)
      if (free_[i].bytes >= bytes) {
        char* data = base_ + free_[i].offset;
        free_[i].offset += bytes;
        free_[i].bytes -= bytes;
        if (free_[i].bytes == 0) erase(i);
        ++blocks_;
        return data;
      }
    return nullptr;
  }
  bool holds(const void* data) const {
    return base_ && !std::less<const void*>()(data, base_) && std::less<const void*>()(data, base_ + size);
  }
  void give(void* data, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    const size_t offset = static_cast<size_t>(static_cast<char*>(data) - base_);
    size_t i = 0;
    while (i < ranges_ && free_[i].offset < offset) ++i;
    for (size_t j = ranges_++; j > i; --j) free_[j] = free_[j - 1];
    free_[i] = {offset, bytes};
    if (i + 1 < ranges_ && offset + bytes == free_[i + 1].offset) join(i);
    if (i > 0 && free_[i - 1].offset + free_[i - 1].bytes == offset) join(i - 1);
    --blocks_;
  }
  // Returns unused pages to the system; the addresses stay reserved.
  void release() {
    const std::lock_guard<std::mutex> lock(mutex);
#ifdef __linux__
    for (size_t i = 0; i < ranges_; ++i) madvise(base_ + free_[i].offset, free_[i].bytes, MADV_DONTNEED);
#endif
  }

  std::mutex mutex;

 private:
  struct Range {
    size_t offset, bytes;
  };
  void erase(size_t i) {
    for (--ranges_; i < ranges_; ++i) free_[i] = free_[i + 1];
  }
  void join(size_t i) {
    free_[i].bytes += free_[i + 1].bytes;
    erase(i + 1);
  }

  char* base_ = nullptr;
  Range free_[most_blocks + 1];  // ascending; n blocks have at most n + 1 free ranges between them
  size_t ranges_ = 0, blocks_ = 0;
};

Region& region() {
  static Region* kept = new Region;  // never destroyed: other threads may outlive this one
  return *kept;
}

#if !defined(_WIN32)
// Otherwise, if a process forks while another thread holds the lock, the region stays locked in the child.
const int at_fork = pthread_atfork([] { region().mutex.lock(); }, [] { region().mutex.unlock(); },
                                   [] { region().mutex.unlock(); });
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool keeps = false;  // a retained block would hide reads past its end
#else
constexpr bool keeps = true;
#endif

bool kept_size(size_t bytes) { return keeps && bytes >= huge_page && bytes <= Region::size; }

std::atomic<bool> poisoned{false};
std::atomic<int64_t> before_refusal{0}, in_use{0};

// Returns true for the count-th requested block and all later ones: the counter stays at 1.
bool is_refused() {
  int64_t left = before_refusal.load(std::memory_order_relaxed);
  while (left > 1 && !before_refusal.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) {
  }
  return left == 1;
}

size_t whole_pages(size_t bytes) { return (bytes + page - 1) / page * page; }

}  // namespace

void* take_block(size_t bytes) {
  if (is_refused()) throw std::bad_alloc();
  void* data = kept_size(bytes) ? region().take(whole_pages(bytes)) : nullptr;
  if (!data) data = allocate(bytes);
  in_use.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  // NaN as a float or double, -1 as an index
  if (poisoned.load(std::memory_order_relaxed)) std::memset(data, 0xff, bytes);
  return data;
}

void give_block(void* data, size_t bytes) {
  in_use.fetch_sub(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  if (kept_size(bytes) && region().holds(data))
    region().give(data, whole_pages(bytes));
  else
    deallocate(data);
}

void release_kept_memory() { region().release(); }

void poison_memory(bool on) { poisoned.store(on, std::memory_order_relaxed); }
void refuse_memory(int64_t count) { before_refusal.store(count, std::memory_order_relaxed); }
int64_t memory_in_use() { return in_use.load(std::memory_order_relaxed); }

void wish_for_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / huge_page * huge_page;
  // a hint only
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Large blocks are accessed in scattered order: with 4 KiB pages, address translation would take much of that
// time, and every first touch of a page would be a page fault.
void* allocate(size_t bytes) {
  const size_t alignment = bytes >= huge_page ? huge_page : line;
  const size_t whole = (bytes + line - 1) / line * line;
#if defined(_WIN32)
  void* data = _aligned_malloc(whole ? whole : alignment, alignment);
#else
  void* data = nullptr;
  if (posix_memalign(&data, alignment, whole ? whole : alignment) != 0) data = nullptr;
#endif
  if (!data) throw std::bad_alloc();
  wish_for_huge_pages(data, whole);
  return data;
}

void deallocate(void* data) {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

}  // namespace crfrnn
