// SPDX-License-Identifier: MIT
// Memory aligned to cache lines. Its code is compiled once, for the baseline instruction set.
#pragma once

#include <cstddef>

namespace crfrnn {

void* allocate(size_t bytes);  // aligned to cache lines, large blocks to huge pages; throws std::bad_alloc
void deallocate(void* data);
void wish_for_huge_pages(void* data, size_t bytes);  // for memory that somebody else has allocated and nobody touched yet

class Buffer {
 public:
  explicit Buffer(size_t bytes) : data_(allocate(bytes)) {}
  ~Buffer() { deallocate(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

}  // namespace crfrnn
