// SPDX-License-Identifier: MIT
// The kernels of the best instruction set of this machine. Selected once, at first use; tests may select
// another.
#pragma once

#include <string>
#include <vector>

#include "check.hpp"
#include "embed.hpp"
#include "filter.hpp"
#include "mean_field.hpp"

namespace crfrnn {

std::vector<std::string> instruction_sets();        // supported by this machine, best last
std::string instruction_set();                      // the one in use
void use_instruction_set(const std::string& name);  // throws std::invalid_argument

template <class T>
const EmbedTable<T>& embed_functions();
template <class T>
const FilterTable<T>& filter_functions();
const MeanFieldTable& mean_field_functions();
const CheckTable& check_functions();

}  // namespace crfrnn
