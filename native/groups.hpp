// SPDX-License-Identifier: MIT
// Axes that are blurred at once. The product of their stencils has 3^m terms for m axes. Unlike a blur axis
// by axis, it still reaches a vertex if an intermediate vertex on the path is missing.
#pragma once

#include <cstdint>

namespace crfrnn {

// A group of axes and its offsets. Digit i of an offset, written in base 3, gives the step along axis
// `first` + i: 0 none, 1 down, 2 up. Offset 0 is the vertex itself.
struct AxisGroup {
  static constexpr int most_axes = 3, most_offsets = 27;
  int first, axes;

  int offsets() const {
    int count = 1;
    for (int i = 0; i < axes; ++i) count *= 3;
    return count;
  }
  // The step along axis `first` + i: -1, 0 or 1.
  static int steps(int offset, int i) {
    for (; i > 0; --i) offset /= 3;
    return offset % 3 == 0 ? 0 : offset % 3 * 2 - 3;
  }
  // The number of nonzero steps; the weight of the offset is 2^-moves.
  int moves(int offset) const {
    int count = 0;
    for (int i = 0; i < axes; ++i) count += steps(offset, i) != 0;
    return count;
  }
  // How many slabs up the offset leads: a step up along axis `lead` goes one slab down, along lead + 1 one
  // slab up.
  int slabs_up(int offset, int lead) const {
    int count = 0;
    for (int i = 0; i < axes; ++i)
      count += steps(offset, i) * ((first + i == lead + 1) - (first + i == lead));
    return count;
  }
};

}  // namespace crfrnn
