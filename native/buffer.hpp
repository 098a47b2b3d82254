// SPDX-License-Identifier: MIT
// Scratch memory aligned to cache lines. Its code is compiled once, for the baseline instruction set.
#pragma once

#include <cstddef>

namespace crfrnn {

class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace crfrnn
