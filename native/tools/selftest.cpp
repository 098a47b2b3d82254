// SPDX-License-Identifier: MIT
// Commits one fault on purpose, to show that a sanitizer is really active: `crfrnn_selftest
// overflow|signed|cast|race` must be stopped. Without an argument it prints the instruction sets of this
// machine and exits successfully.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"

namespace {

volatile int one = 1;  // volatile: otherwise the compiler would warn, or remove the fault

int past_the_end() {
  const crfrnn::Buffer buffer(16 * sizeof(int));
  for (int i = 0; i < 16; ++i) buffer.as<int>()[i] = i;
  return buffer.as<int>()[15 + one];
}

int signed_overflow() { return std::numeric_limits<int>::max() - 1 + 2 * one; }

int cast_of_nan() {
  return static_cast<int>(std::numeric_limits<float>::quiet_NaN() * static_cast<float>(one));
}

// Uses parallel_for, like all threads of the library.
int race() {
  int64_t sum = 0;
  crfrnn::parallel_for(2, 2, [&](int64_t, int) {
    for (int i = 0; i < 10000; ++i) sum += one;
    std::this_thread::yield();
  });
  return static_cast<int>(sum);
}

}  // namespace

int main(int count, char** arguments) {
  const std::string fault = count > 1 ? arguments[1] : "";
  if (fault.empty()) {
    std::printf("instruction sets:");
    for (const auto& name : crfrnn::instruction_sets()) std::printf(" %s", name.c_str());
    std::printf("\n");
    return 0;
  }
  int result = 0;
  if (fault == "overflow") {
    result = past_the_end();
  } else if (fault == "signed") {
    result = signed_overflow();
  } else if (fault == "cast") {
    result = cast_of_nan();
  } else if (fault == "race") {
    result = race();
  } else {
    std::fprintf(stderr, "selftest: expected overflow, signed, cast or race, got %s\n", fault.c_str());
    return 2;
  }
  std::printf("%s went unseen (%d)\n", fault.c_str(), result);
  return 0;
}
