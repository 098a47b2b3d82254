// SPDX-License-Identifier: MIT
// The fuzzer's cases under libFuzzer: every choice of a case is read from the input, so that coverage guides
// the choices. $CRFRNN_TARGET names the part of the core. scripts/fuzz.py native builds it with Clang and
// runs it.
#include "buffer.hpp"
#include "fuzz.hpp"

using namespace crfrnn;
using fuzz::LatticePart, fuzz::MeanFieldPart, fuzz::Random;

namespace {

template <LatticePart part>
void lattice(Random& random) {
  if (random.chance(2))
    fuzz::lattice_case<float>(random, false, part);
  else
    fuzz::lattice_case<double>(random, false, part);
}
template <MeanFieldPart part>
void mean_field(Random& random) {
  fuzz::mean_field_case(random, part);
}

struct Target {
  const char* name;
  void (*run)(Random& random);
};
constexpr Target targets[] = {
    {"build", lattice<LatticePart::build>},
    {"filter", lattice<LatticePart::filter>},
    {"filter-gradient", lattice<LatticePart::gradient>},
    {"table", fuzz::table_case},
    {"inference", mean_field<MeanFieldPart::inference>},
    {"gradient", mean_field<MeanFieldPart::gradient>},
    {"in-play", mean_field<MeanFieldPart::in_play>},
    {"narrow", mean_field<MeanFieldPart::narrow>},
};

const Target& chosen_target() {
  const char* name = std::getenv("CRFRNN_TARGET");
  for (const Target& target : targets)
    if (name && std::strcmp(name, target.name) == 0) return target;
  std::fprintf(stderr, "$CRFRNN_TARGET: expected one of");
  for (const Target& target : targets) std::fprintf(stderr, " %s", target.name);
  std::fprintf(stderr, ", got %s\n", name ? name : "nothing");
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Target& target = chosen_target();
  static const auto sets = [] {
    poison_memory(true);
    return instruction_sets();
  }();
  Random random(data, size);
  const size_t choice = static_cast<size_t>(random.below(16)), above = sets.size() - 1;
  // the baseline in one of 16 cases only, because it is the slowest
  use_instruction_set(sets[choice == 0 || above == 0 ? 0 : 1 + choice % above]);
  fuzz::current_case() = target.name;
  target.run(random);
  return 0;
}
