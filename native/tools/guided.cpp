// SPDX-License-Identifier: MIT
// The fuzzer's cases under libFuzzer: every choice of a case is read from the input, so that coverage guides
// the choices. $CRFRNN_TARGET names the part of the core. scripts/fuzz.py native builds it with Clang and
// runs it.
#include "buffer.hpp"
#include "fuzz.hpp"

using namespace crfrnn;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Part& part = fuzz::part_named(std::getenv("CRFRNN_TARGET"));
  static const auto sets = [] {
    poison_memory(true);
    return instruction_sets();
  }();
  fuzz::Random random(data, size);
  const size_t choice = static_cast<size_t>(random.below(16)), above = sets.size() - 1;
  // the baseline in one of 16 cases only, because it is the slowest
  use_instruction_set(sets[choice == 0 || above == 0 ? 0 : 1 + choice % above]);
  fuzz::current_case() = part.name;
  part.run(random);
  return 0;
}
