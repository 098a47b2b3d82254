// SPDX-License-Identifier: MIT
// `crfrnn_fuzz [cases] [first]`: runs cases first, first + 1, ... of random lattices, damaged tables and
// mean-field problems, on every instruction set of this machine. A case depends only on its number, so
// `crfrnn_fuzz 1 NUMBER` repeats it. Scratch memory is initialised with NaN: a case fails if NaN reaches a
// result.
#include "buffer.hpp"
#include "fuzz.hpp"

using namespace crfrnn;

int main(int count, char** arguments) {
  const long long cases = count > 1 ? std::atoll(arguments[1]) : 200,
                  first = count > 2 ? std::atoll(arguments[2]) : 1;
  const auto sets = instruction_sets();
  poison_memory(true);
  for (long long i = first; i < first + cases; ++i)
    for (const auto& set : sets) {
      fuzz::Random random(static_cast<uint64_t>(i));
      use_instruction_set(set);
      fuzz::current_case() = std::to_string(i) + ":";
      fuzz::any_case(random);
    }
  std::printf("fuzz: cases %lld to %lld hold on", first, first + cases - 1);
  for (const auto& set : sets) std::printf(" %s", set.c_str());
  std::printf("\n");
  return 0;
}
