// SPDX-License-Identifier: MIT
// Shared by the fuzzer's parts: random numbers that are the same on every machine, arrays of exact size, and
// a check that reports its case.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "dispatch.hpp"

namespace crfrnn::fuzz {

// Choices are read from `data` while it lasts, so that a coverage-guided fuzzer can change a single one.
// Everything after it, and all bulk values, come from splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  Random(const uint8_t* data, size_t size) : small(true), data_(data), left_(size) { state_ = taken(8); }
  uint64_t bits() { return left_ ? taken(8) : mixed(); }
  int64_t below(int64_t n) {
    const uint64_t value = left_ && n <= 65536 ? taken(2) : bits();
    return static_cast<int64_t>(value % static_cast<uint64_t>(n));
  }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(int one_in) { return below(one_in) == 0; }
  // A size up to `usual`, or up to `most` if cases have to be small.
  int64_t sized(int64_t low, int64_t usual, int64_t most) { return between(low, small ? most : usual); }
  // Whether to make a further check of a case: always, but in one of four small cases, which take as long
  // as the check.
  bool checks() { return !small || chance(4); }
  int several() { return static_cast<int>(between(2, 4)); }  // number of threads to compare with one
  double uniform() { return static_cast<double>(mixed() >> 11) * 0x1p-53; }
  double normal() {  // a sum of uniforms is close enough to normal
    double sum = -6;
    if (small) {  // twelve numbers of ten bits from two random numbers
      for (int half = 0; half < 2; ++half)
        for (uint64_t left = mixed(), i = 0; i < 6; ++i, left >>= 10)
          sum += static_cast<double>(left & 1023) * 0x1p-10 + 0x1p-11;
      return sum;
    }
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

  // Coverage grows fastest with many small cases: thousands per second.
  const bool small = false;

 private:
  uint64_t mixed() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t taken(size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && left_; ++i, --left_) value |= static_cast<uint64_t>(*data_++) << (8 * i);
    return value;
  }
  const uint8_t* data_ = nullptr;
  size_t left_ = 0;
  uint64_t state_;
};

// A heap array of exact size, so that the sanitizer detects an access one element past the end.
template <class T>
struct Exact {
  std::unique_ptr<T[]> data;
  size_t size;
  explicit Exact(int64_t n, T value = T())
      : data(new T[static_cast<size_t>(n)]), size(static_cast<size_t>(n)) {
    for (size_t i = 0; i < size; ++i) data[i] = value;
  }
  T* get() const { return data.get(); }
  T& operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
  bool same_bits(const Exact& other) const {
    return size == other.size &&
           (size == 0 || std::memcmp(data.get(), other.data.get(), size * sizeof(T)) == 0);
  }
};

template <class T>
Exact<T> normals(Random& random, int64_t n, double scale = 1.0) {
  Exact<T> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(scale * random.normal());
  return out;
}

inline std::string& current_case() {
  static std::string text;
  return text;
}

inline void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n  case: %s\n", what, current_case().c_str());
  std::exit(1);
}

// Runs `work` with memory that runs out after some blocks: it must throw bad_alloc or finish, and free
// everything.
template <class Work>
void without_memory(Random& random, const Work& work) {
  const int64_t before = memory_in_use();
  refuse_memory(random.between(1, 60));
  try {
    work();
  } catch (const std::bad_alloc&) {
  }
  refuse_memory(0);
  check(memory_in_use() == before, "no memory is lost where some is refused");
}

enum class Cloud { smooth, grid, same, ties, tiny, wide, huge, bad, count };

// Features of one kind: spread out, on lattice points, all equal, ...
template <class T>
void fill_features(Random& random, Cloud cloud, int dim, Exact<T>& out) {
  const double scale = std::pow(10.0, static_cast<double>(random.between(-2, 2)));
  for (size_t i = 0; i < out.size; ++i) {
    const double x = random.normal();
    double value = scale * x;
    const int64_t axis = static_cast<int64_t>(i) % dim, point = static_cast<int64_t>(i) / dim;
    if (cloud == Cloud::grid)
      value = static_cast<double>(axis == 0 ? point % 16 : axis == 1 ? point / 16 : point * 37 % 5) / 3.0;
    if (cloud == Cloud::same) value = scale;
    if (cloud == Cloud::ties) value = static_cast<double>(random.between(-4, 4)) * std::sqrt(1.5) / (dim + 1);
    if (cloud == Cloud::tiny) value = x * static_cast<double>(std::numeric_limits<T>::denorm_min()) * 8;
    if (cloud == Cloud::wide) value = x * (sizeof(T) == 4 ? 2e4 : 1e10);
    if (cloud == Cloud::huge)
      value = random.chance(20) ? x * std::pow(10.0, static_cast<double>(random.between(5, 37))) : x;
    out[static_cast<int64_t>(i)] = static_cast<T>(value);
  }
  if (cloud == Cloud::bad && out.size) {
    const double worst[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                            -std::numeric_limits<double>::infinity(),
                            static_cast<double>(std::numeric_limits<T>::max()),
                            static_cast<double>(std::numeric_limits<T>::lowest())};
    for (int64_t i = random.between(1, 3); i > 0; --i)
      out[random.below(static_cast<int64_t>(out.size))] = static_cast<T>(worst[random.below(5)]);
  }
}

enum class LatticePart { all, build, filter, gradient };
enum class MeanFieldPart { all, inference, gradient, in_play, narrow };

template <class T>
void lattice_case(Random& random, bool large, LatticePart part = LatticePart::all);
void mean_field_case(Random& random, MeanFieldPart part = MeanFieldPart::all);
void table_case(Random& random);

// A part of the core, and the function that runs a case of it.
struct Part {
  const char* name;
  void (*run)(Random& random);
};
template <LatticePart part>
void lattice_part(Random& random) {
  if (random.chance(2))
    lattice_case<float>(random, false, part);
  else
    lattice_case<double>(random, false, part);
}
template <MeanFieldPart part>
void mean_field_part(Random& random) {
  mean_field_case(random, part);
}
constexpr Part parts[] = {
    {"build", lattice_part<LatticePart::build>},
    {"filter", lattice_part<LatticePart::filter>},
    {"filter-gradient", lattice_part<LatticePart::gradient>},
    {"table", table_case},
    {"inference", mean_field_part<MeanFieldPart::inference>},
    {"gradient", mean_field_part<MeanFieldPart::gradient>},
    {"in-play", mean_field_part<MeanFieldPart::in_play>},
    {"narrow", mean_field_part<MeanFieldPart::narrow>},
};

inline const Part& part_named(const char* name) {
  for (const Part& part : parts)
    if (name && std::strcmp(name, part.name) == 0) return part;
  std::fprintf(stderr, "fuzz: expected one of");
  for (const Part& part : parts) std::fprintf(stderr, " %s", part.name);
  std::fprintf(stderr, ", got %s\n", name ? name : "nothing");
  std::exit(2);
}

inline void any_case(Random& random) {
  const int64_t kind = random.below(8);
  const bool large = random.chance(16);
  if (kind < 2)
    lattice_case<float>(random, large);
  else if (kind < 4)
    lattice_case<double>(random, large);
  else if (kind == 4)
    table_case(random);
  else
    mean_field_case(random);
}

}  // namespace crfrnn::fuzz
