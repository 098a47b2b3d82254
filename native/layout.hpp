// SPDX-License-Identifier: MIT
// The position of each coordinate of a vertex in its key.
#pragma once

#include "embed.hpp"
#include "keys.hpp"

namespace crfrnn {

inline int bits_for(uint64_t count) {  // bits that hold 0 .. count - 1
  int bits = 0;
  while (bits < 64 && (count - 1) >> bits) ++bits;
  return bits;
}

// The position of each coordinate in a key: [picture | f_lead | the other f]. Every field covers the range of
// the data plus a margin, so that no step of the blur and no ring can overflow into the next field.
struct Layout {
  int dim = 0, lead = 0, bits = 0, slab_shift = 0;
  int64_t low[max_dim] = {};
  int shift[max_dim] = {};
  int picture_shift = 0;

  Layout(int dim_, const int64_t* least, const int64_t* most, int64_t batch, int margin) : dim(dim_) {
    for (int i = 1; i < dim; ++i)
      if (most[i] - least[i] > most[lead] - least[lead]) lead = i;
    for (int i = dim - 1; i >= -1; --i) {
      const int axis = i == -1 ? lead : i;
      if (i == lead) continue;
      low[axis] = least[axis] - margin;
      shift[axis] = bits;
      if (axis == lead) slab_shift = bits;
      bits += bits_for(static_cast<uint64_t>(most[axis] - least[axis] + 2 * margin + 1));
    }
    picture_shift = bits;
    bits += bits_for(static_cast<uint64_t>(batch < 1 ? 1 : batch));
  }

  // The difference between a key and that of its neighbour along `axis`: f_axis - 1 and f_{axis - 1} + 1.
  template <int W>
  Key<W> step(int axis) const {
    Key<W> key = Key<W>::zero();
    if (axis < dim) key = key + -(key_of<W>(1) << shift[axis]);
    if (axis > 0) key = key + (key_of<W>(1) << shift[axis - 1]);
    return key;
  }
};

}  // namespace crfrnn
