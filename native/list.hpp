// SPDX-License-Identifier: MIT
// std::vector over the core's own memory (buffer.hpp).
#pragma once

#include <cstddef>
#include <vector>

#include "buffer.hpp"

namespace crfrnn {

template <class T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(take_block(n * sizeof(T))); }
  void deallocate(T* data, size_t n) { give_block(data, n * sizeof(T)); }
  friend bool operator==(const Allocator&, const Allocator&) { return true; }
};
template <class T>
using List = std::vector<T, Allocator<T>>;

}  // namespace crfrnn
