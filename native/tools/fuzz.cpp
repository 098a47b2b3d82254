// SPDX-License-Identifier: MIT
// `crfrnn_fuzz [cases] [first] [part]`: runs cases first, first + 1, ... of random lattices, damaged tables
// and mean-field problems, on every instruction set of this machine; with a part, small cases of it, such as
// the coverage-guided fuzzer makes. A case depends only on its number, so `crfrnn_fuzz 1 NUMBER` repeats it.
// Scratch memory is initialised with NaN: a case fails if NaN reaches a result.
#include "buffer.hpp"
#include "fuzz.hpp"

using namespace crfrnn;

namespace {

void small_case(const fuzz::Part& part, uint64_t number) {
  fuzz::Random bytes(number);
  uint8_t data[96];
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(bytes.bits());
  fuzz::Random random(data, sizeof data);
  part.run(random);
}

}  // namespace

int main(int count, char** arguments) {
  const long long cases = count > 1 ? std::atoll(arguments[1]) : 200,
                  first = count > 2 ? std::atoll(arguments[2]) : 1;
  const fuzz::Part* part = count > 3 ? &fuzz::part_named(arguments[3]) : nullptr;
  const auto sets = instruction_sets();
  poison_memory(true);
  for (long long i = first; i < first + cases; ++i)
    for (const auto& set : sets) {
      use_instruction_set(set);
      fuzz::current_case() = std::to_string(i) + ":" + (part ? part->name : "");
      if (part) {
        small_case(*part, static_cast<uint64_t>(i));
      } else {
        fuzz::Random random(static_cast<uint64_t>(i));
        fuzz::any_case(random);
      }
    }
  std::printf("fuzz: cases %lld to %lld%s%s hold on", first, first + cases - 1, part ? " of " : "",
              part ? part->name : "");
  for (const auto& set : sets) std::printf(" %s", set.c_str());
  std::printf("\n");
  return 0;
}
