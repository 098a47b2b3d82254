// SPDX-License-Identifier: MIT
#include "buffer.hpp"

#include <cstdint>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace crfrnn {
namespace {

constexpr size_t line = 64, huge_page = size_t{2} << 20;

// Large buffers are walked in scattered order: with 4 KiB pages most of that time would go into address translation.
size_t alignment(size_t bytes) { return bytes >= 2 * huge_page ? huge_page : line; }

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes ? bytes : line), data_(nullptr) {
  data_ = ::operator new(bytes_, std::align_val_t{alignment(bytes_)});
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment(bytes_) == huge_page) madvise(data_, bytes_ / huge_page * huge_page, MADV_HUGEPAGE);  // a wish, not a need
#endif
}

Buffer::~Buffer() { ::operator delete(data_, std::align_val_t{alignment(bytes_)}); }

}  // namespace crfrnn
