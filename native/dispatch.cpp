// SPDX-License-Identifier: MIT
#include "dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#if defined(CRFRNN_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace crfrnn {

#define CRFRNN_DECLARE(isa)                 \
  namespace isa {                           \
  template <class T>                        \
  const EmbedTable<T>& embed_table();       \
  template <class T>                        \
  const FilterTable<T>& filter_table();     \
  const MeanFieldTable& mean_field_table(); \
  const CheckTable& check_table();          \
  }
CRFRNN_DECLARE(baseline)
#ifdef CRFRNN_X86
CRFRNN_DECLARE(avx2)
CRFRNN_DECLARE(avx512)
#endif
#undef CRFRNN_DECLARE

namespace {

#ifdef CRFRNN_X86
#ifdef _MSC_VER
bool machine_has(int level) {
  int r[4];
  __cpuid(r, 1);
  const bool fma = r[2] & (1 << 12), osxsave = r[2] & (1 << 27);
  if (!fma || !osxsave) return false;
  const unsigned long long state = _xgetbv(0);
  __cpuidex(r, 7, 0);
  if ((state & 6) != 6 || !(r[1] & (1 << 5))) return false;
  if (level == 1) return true;
  constexpr int wanted = (1 << 16) | (1 << 17) | (1 << 30) | (1 << 31);  // F, DQ, BW, VL
  return (state & 0xe0) == 0xe0 && (r[1] & wanted) == wanted;
}
#else
bool machine_has(int level) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == 1 || !avx2) return avx2;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif
#endif

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

int best_level() {
#ifdef CRFRNN_X86
  if (machine_has(2)) return 2;
  if (machine_has(1)) return 1;
#endif
  return 0;
}

std::atomic<int>& level() {
  static std::atomic<int> chosen{best_level()};
  return chosen;
}

}  // namespace

std::vector<std::string> instruction_sets() { return {names, names + best_level() + 1}; }

std::string instruction_set() { return names[level().load()]; }

void use_instruction_set(const std::string& name) {
  const auto sets = instruction_sets();
  const auto found = std::find(sets.begin(), sets.end(), name);
  if (found == sets.end())
    throw std::invalid_argument("name: this machine cannot run instruction set '" + name + "'");
  level() = static_cast<int>(found - sets.begin());
}

#ifdef CRFRNN_X86
#define CRFRNN_CHOOSE(function)           \
  switch (level().load()) {               \
    case 2: return avx512::function();    \
    case 1: return avx2::function();      \
    default: return baseline::function(); \
  }
#else
#define CRFRNN_CHOOSE(function) return baseline::function();
#endif

template <class T>
const EmbedTable<T>& embed_functions() {
  CRFRNN_CHOOSE(embed_table<T>)
}
template const EmbedTable<float>& embed_functions();
template const EmbedTable<double>& embed_functions();

template <class T>
const FilterTable<T>& filter_functions() {
  CRFRNN_CHOOSE(filter_table<T>)
}
template const FilterTable<float>& filter_functions();
template const FilterTable<double>& filter_functions();

const MeanFieldTable& mean_field_functions() { CRFRNN_CHOOSE(mean_field_table) }

const CheckTable& check_functions() { CRFRNN_CHOOSE(check_table) }

}  // namespace crfrnn
