// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "buffer.hpp"

namespace crfrnn {

// A plain array that is not zero-initialised, because clearing would take most of the time of a build.
template <class T>
class Array {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  Array() = default;
  explicit Array(size_t size) : size_(size), data_(static_cast<T*>(take_block(size * sizeof(T)))) {}
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Array() {
    if (data_) give_block(data_, size_ * sizeof(T));
  }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  void swap(Array& other) {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
  }

 private:
  size_t size_ = 0;
  T* data_ = nullptr;
};

}  // namespace crfrnn
