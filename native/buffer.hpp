// SPDX-License-Identifier: MIT
// Memory aligned to cache lines. Compiled once, for the baseline instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crfrnn {

void* allocate(size_t bytes);  // aligned to cache lines, large blocks to huge pages; throws std::bad_alloc
void deallocate(void* data);
// requests huge pages for memory allocated elsewhere that has not been touched yet
void wish_for_huge_pages(void* data, size_t bytes);

// The same, but a large block may be reused memory (see buffer.cpp). Every block taken must be given back,
// with its size.
void* take_block(size_t bytes);
void give_block(void* data, size_t bytes);
void release_kept_memory();

// For tests: fill allocated blocks with NaN, so that reads of uninitialised memory are noticed; refuse the
// count-th block from now and all later ones (0: none); the number of bytes taken and not yet given back.
void poison_memory(bool on);
void refuse_memory(int64_t count);
int64_t memory_in_use();

// Scratch memory. Its initial contents are undefined.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes), data_(take_block(bytes)) {}
  ~Buffer() { give_block(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void exchange(Buffer& other) {
    const size_t bytes = bytes_;
    void* const data = data_;
    bytes_ = other.bytes_, data_ = other.data_;
    other.bytes_ = bytes, other.data_ = data;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace crfrnn
