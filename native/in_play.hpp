// SPDX-License-Identifier: MIT
// Mean field in which only the labels in play send messages: those whose marginal reaches δ
// (Problem::in_play) at any pixel before the iteration. The other labels remain in the softmax.
#pragma once

#include "mean_field.hpp"

namespace crfrnn::CRFRNN_ISA {

// Same as MeanFieldTable::forward, for δ > 0 and at least one iteration; stores nothing for a backward pass.
bool forward_in_play(const Problem& problem, const float* unary, const float* initial, const Result& result);

}  // namespace crfrnn::CRFRNN_ISA
