// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

namespace crfrnn {

// A plain array that is not cleared first: most of a build's time would go into clearing.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t size) : size_(size), data_(new T[size]) {}
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T* release() { return data_.release(); }
  void swap(Array& other) {
    std::swap(size_, other.size_);
    data_.swap(other.data_);
  }

 private:
  size_t size_ = 0;
  std::unique_ptr<T[]> data_;
};

}  // namespace crfrnn
