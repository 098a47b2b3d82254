// SPDX-License-Identifier: MIT
// The labels in play, and those that have a column in the rows.
#pragma once

#include "rows.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr int64_t most_labels = int64_t{most_packs} * Pack<float>::lanes;

// A set of labels.
struct LabelSet {
  uint8_t has[most_labels] = {};
  int64_t size(int64_t labels) const {
    int64_t count = 0;
    for (int64_t l = 0; l < labels; ++l) count += has[l];
    return count;
  }
};

// The labels that have a column in the rows, in ascending order. A label that leaves play keeps its column,
// without sending messages, until the rows get a new layout. Few columns are padded to a narrow row
// (rows.hpp) by columns without a label, whose logit is minus_infinity.
struct Columns {
  int64_t count = 0, used = 0;  // used: without the padding
  int32_t label[most_labels];   // of a column, -1: none
  int32_t column[most_labels];  // of a label, -1: none
  bool sends[most_labels];      // of a column: whether its label is in play

  Columns(const LabelSet& set, int64_t labels, bool pads) {
    for (int64_t l = 0; l < labels; ++l) {
      column[l] = set.has[l] ? static_cast<int32_t>(count) : -1;
      if (set.has[l]) label[count++] = static_cast<int32_t>(l);
    }
    if (count == 0) {  // rows have at least one column
      label[count++] = 0;
      column[0] = 0;
    }
    used = count;
    while (pads && count < padded(used)) label[count++] = -1;
    choose(set);
  }
  void choose(const LabelSet& set) {
    for (int64_t c = 0; c < count; ++c) sends[c] = label[c] >= 0 && set.has[label[c]];
  }
};

// For each of the fixed parts, the highest marginals, and the labels without a column whose marginal reached
// δ. Each part writes to separate memory, and the overall maximum does not depend on the order of the parts.
struct Watch {
  using P = Pack<float>;
  int64_t width, labels, flags;  // flags: stride in bytes between parts
  Buffer highest_of, entered_of;

  // width: numbers in the packs of a row
  Watch(int64_t width_, int64_t labels_, int64_t parts)
      : width(width_), labels(labels_), flags((labels_ + 63) / 64 * 64),
        highest_of(static_cast<size_t>(parts * width_) * sizeof(float)),
        entered_of(static_cast<size_t>(parts * flags)) {}

  float* highest(int64_t part) const { return highest_of.as<float>() + part * width; }
  uint8_t* entered(int64_t part) const { return entered_of.as<uint8_t>() + part * flags; }
  void clear(int64_t parts) const {
    for (int64_t i = 0; i < parts * width; ++i) highest_of.as<float>()[i] = 0.f;
    for (int64_t i = 0; i < parts * flags; ++i) entered_of.as<uint8_t>()[i] = 0;
  }
  CRFRNN_INLINE void see(int64_t part, int64_t at, P marginal) const {
    float* most = highest(part) + at;
    P::max(P::load(most), marginal).store(most);
  }
  // The maximum over all parts; `apart`: and over every such number of a pack.
  float highest(int64_t parts, int64_t at, int64_t apart = P::lanes) const {
    float most = 0.f;
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t i = at; i < at / P::lanes * P::lanes + P::lanes; i += apart)
        if (highest(part)[i] > most) most = highest(part)[i];
    return most;
  }
  bool entered(int64_t parts, int64_t label) const {
    for (int64_t part = 0; part < parts; ++part)
      if (entered(part)[label]) return true;
    return false;
  }
};

}  // namespace crfrnn::CRFRNN_ISA
