// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "buffer.hpp"

namespace crfrnn {

// A plain array that is not cleared first: most of a build's time would go into clearing.
template <class T>
class Array {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  Array() = default;
  explicit Array(size_t size) : size_(size), data_(static_cast<T*>(allocate(size * sizeof(T)))) {}
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T* release() { return data_.release(); }  // to be given to deallocate()
  void swap(Array& other) {
    std::swap(size_, other.size_);
    data_.swap(other.data_);
  }

 private:
  size_t size_ = 0;
  struct Deallocate {
    void operator()(T* data) const { deallocate(data); }
  };
  std::unique_ptr<T[], Deallocate> data_;
};

}  // namespace crfrnn
