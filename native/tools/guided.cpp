// SPDX-License-Identifier: MIT
// The fuzzer's cases under libFuzzer: every choice of a case is read from the input, so that coverage guides
// the choices. scripts/fuzz.py native builds it with Clang and runs it.
#include "buffer.hpp"
#include "fuzz.hpp"

using namespace crfrnn;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto sets = [] {
    poison_memory(true);
    return instruction_sets();
  }();
  fuzz::Random random(data, size);
  use_instruction_set(sets[static_cast<size_t>(random.below(static_cast<int64_t>(sets.size())))]);
  fuzz::current_case() = "input:";
  fuzz::any_case(random, false);
  return 0;
}
