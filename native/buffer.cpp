// SPDX-License-Identifier: MIT
#include "buffer.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace crfrnn {
namespace {

constexpr size_t line = 64, huge_page = size_t{2} << 20;

// The system hands out memory cleared, page by page, which took a fifth of a training step: forward and backward use the same
// sizes one after the other. So the last large blocks are kept for the next call, `most` bytes at the utmost, and never so many
// that they and what is in use exceed what was once in use at one time: keeping does not add to what a process needs.
class Kept {
 public:
  static constexpr size_t most = size_t{128} << 20;
  static constexpr int slots = 24;

  // Never waits: in a process that was forked while a thread was in here, the lock would stay taken for good.
  void* take(size_t bytes) {
    const size_t used = used_ += bytes;
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return nullptr;
    peak_ = std::max(peak_, used);
    for (int i = count_ - 1; i >= 0; --i)
      if (blocks_[i].bytes == bytes) return remove(i);
    while (count_ > 0 && used + total_ > peak_) deallocate(remove(0));  // the oldest go
    return nullptr;
  }
  bool keep(void* data, size_t bytes) {
    used_ -= bytes;
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || bytes > most) return false;
    while (count_ == slots || total_ + bytes > most) deallocate(remove(0));
    blocks_[count_++] = {data, bytes};
    total_ += bytes;
    return true;
  }
  void release() {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    while (lock.owns_lock() && count_ > 0) deallocate(remove(count_ - 1));
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };
  void* remove(int i) {
    void* data = blocks_[i].data;
    total_ -= blocks_[i].bytes;
    for (--count_; i < count_; ++i) blocks_[i] = blocks_[i + 1];
    return data;
  }

  std::mutex mutex_;
  Block blocks_[slots];
  int count_ = 0;
  size_t total_ = 0, peak_ = 0;   // bytes kept; the most that was ever in use
  std::atomic<size_t> used_ = 0;  // bytes in use
};

Kept& kept() {
  static Kept* blocks = new Kept;  // never destroyed: other threads may outlive this one
  return *blocks;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool keeps = false;  // a kept block would hide what is read after its end
#else
constexpr bool keeps = true;
#endif

bool kept_size(size_t bytes) { return keeps && bytes >= huge_page; }

// Eight sizes from one power of two to the next, so that the blocks of one picture fit the next, whose lattice is a little larger
// or smaller. The pages at the end that nobody touches take no memory.
size_t rounded(size_t bytes) {
  if (!kept_size(bytes)) return bytes;
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

}  // namespace

void* take_block(size_t bytes) {
  void* data = kept_size(bytes) ? kept().take(rounded(bytes)) : nullptr;
  return data ? data : allocate(rounded(bytes));
}

void give_block(void* data, size_t bytes) {
  if (!(kept_size(bytes) && kept().keep(data, rounded(bytes)))) deallocate(data);
}

void release_kept_memory() { kept().release(); }

void wish_for_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / huge_page * huge_page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish, not a need
#else
  (void)data, (void)bytes;
#endif
}

// Large blocks are walked in scattered order: with 4 KiB pages much of that time would go into address translation, and
// the first touch of each page into asking the system for it.
void* allocate(size_t bytes) {
  const size_t alignment = bytes >= huge_page ? huge_page : line;
  const size_t whole = (bytes + line - 1) / line * line;
#if defined(_MSC_VER)
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
#if defined(_MSC_VER)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

}  // namespace crfrnn
