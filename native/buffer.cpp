// SPDX-License-Identifier: MIT
#include "buffer.hpp"

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace crfrnn {
namespace {

constexpr size_t line = 64, huge_page = size_t{2} << 20;

}  // namespace

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
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
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
