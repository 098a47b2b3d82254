// SPDX-License-Identifier: MIT
// The vertices of all simplices: each distinct corner once, sorted, and the corners of each simplex.
//
// Simplices are sorted by their lower slab, and their corners lie in that slab and the next one. They are
// divided into *bands* of whole slabs, so that the vertices of a band, which come from its own simplices and
// those of the band before it, are sorted in the cache. A band with many simplices consists of several
// *pieces*. Each piece first lists its distinct corners, because neighbouring simplices share most of them.
#pragma once

#include <algorithm>
#include <bit>

#include "array.hpp"
#include "keys.hpp"
#include "layout.hpp"
#include "list.hpp"
#include "parallel.hpp"
#include "sort.hpp"
#include "unique.hpp"

namespace crfrnn {

// Reads the ranks of a simplex from the end of its key; the last rank follows from the others.
template <int W>
void permutation_of(const Key<W>& key, int n, int bits, uint8_t* rank) {
  int left = n * (n - 1) / 2;
  for (int i = n - 2, at = 0; i >= 0; --i, at += bits) {
    rank[i] = static_cast<uint8_t>(key.bits_at(at, (1u << bits) - 1));
    left -= rank[i];
  }
  rank[n - 1] = static_cast<uint8_t>(left);
}

template <int W>
class Corners {
 public:
  // items: the simplices of all points, sorted; first: the first item of each simplex, then the number of
  // items.
  Corners(const Array<Keyed<W>>& items, const List<int32_t>& first, const Layout& layout, int rank_bits,
          int threads)
      : items_(items), first_(first), layout_(layout), rank_bits_(rank_bits),
        place_((first.size() - 1) * static_cast<size_t>(layout.dim + 1)), rank_(place_.size()) {
    divide();
    parallel_for(static_cast<int64_t>(pieces_.size()), threads,
                 [&](int64_t i, int) { list_corners(pieces_[static_cast<size_t>(i)]); });
    parallel_for(static_cast<int64_t>(bands_.size()), threads,
                 [&](int64_t i, int) { sort_band(static_cast<size_t>(i)); });
    for (size_t i = 1; i < bands_.size(); ++i)
      bands_[i].vertex = bands_[i - 1].vertex + static_cast<int32_t>(bands_[i - 1].keys.size());
  }

  // The vertices, ascending.
  List<Key<W>> keys() const {
    List<Key<W>> all;
    if (bands_.empty()) return all;
    all.reserve(static_cast<size_t>(bands_.back().vertex) + bands_.back().keys.size());
    for (const Band& band : bands_) {
      check_stop();
      all.insert(all.end(), band.keys.begin(), band.keys.end());
    }
    return all;
  }

  // Writes the vertices of each simplex and the ranks of its coordinates, [simplices][dim + 1]. moved: new
  // numbers of the vertices, or empty.
  void write(const List<int32_t>& moved, int32_t* vertices, uint8_t* ranks, int threads) const {
    const int64_t corners = layout_.dim + 1;
    parallel_for(static_cast<int64_t>(pieces_.size()), threads, [&](int64_t i, int) {
      const Piece& piece = pieces_[static_cast<size_t>(i)];
      const bool last = piece.band + 1 == bands_.size();
      const Band &own = bands_[piece.band], &next = bands_[piece.band + !last];
      List<int32_t> vertex(piece.keys.size());
      for (size_t k = 0; k < vertex.size(); ++k) {
        vertex[k] = piece.place[k] + (last || piece.keys[k] < next.low ? own.vertex : next.vertex);
        if (!moved.empty()) vertex[k] = moved[static_cast<size_t>(vertex[k])];
      }
      for (int64_t at = piece.begin * corners; at < piece.end * corners; ++at)
        vertices[at] = vertex[static_cast<size_t>(place_[static_cast<size_t>(at)])];
      std::copy_n(rank_.data() + piece.begin * corners, (piece.end - piece.begin) * corners,
                  ranks + piece.begin * corners);
    });
  }

 private:
  // simplices of a band, and of a piece
  static constexpr int64_t least = block_size(2048, 4), most = block_size(4096, 8);

  struct Band {
    Key<W> low;  // no vertex of the band has a smaller key
    size_t piece, end_piece;
    List<Key<W>> keys;   // its vertices, ascending
    int32_t vertex = 0;  // the number of its first vertex
  };
  struct Piece {
    size_t band;
    int64_t begin, end;    // simplices
    List<Key<W>> keys;     // its corners; a few occur twice
    Array<int32_t> place;  // of each key, among the vertices of its band
  };

  const Array<Keyed<W>>& items_;
  const List<int32_t>& first_;
  const Layout& layout_;
  int rank_bits_;
  Array<int32_t> place_;  // [simplices][dim + 1] in the list of the piece
  Array<uint8_t> rank_;   // [simplices][dim + 1]
  List<Band> bands_;
  List<Piece> pieces_;

  const Key<W>& simplex(int64_t s) const {
    return items_[static_cast<size_t>(first_[static_cast<size_t>(s)])].key;
  }
  Key<W> slab(int64_t s) const { return simplex(s) >> (layout_.slab_shift + layout_.dim * rank_bits_); }

  void divide() {
    const int64_t simplices = static_cast<int64_t>(first_.size()) - 1;
    for (int64_t begin = 0, end; begin < simplices; begin = end) {
      end = std::min(begin + least, simplices);
      const Key<W> last = slab(end - 1);
      for (int64_t high = simplices; end < high;) {  // the end of that slab
        const int64_t middle = (end + high) / 2;
        if (last < slab(middle))
          high = middle;
        else
          end = middle + 1;
      }
      const int64_t count = (end - begin + most - 1) / most;
      bands_.push_back({slab(begin) << layout_.slab_shift,
                        pieces_.size(),
                        pieces_.size() + static_cast<size_t>(count),
                        {},
                        0});
      for (int64_t i = 0; i < count; ++i)
        pieces_.push_back({bands_.size() - 1,
                           begin + (end - begin) * i / count,
                           begin + (end - begin) * (i + 1) / count,
                           {},
                           {}});
    }
  }

  void list_corners(Piece& piece) {
    RecentKeys<W> recent(static_cast<size_t>((piece.end - piece.begin) * (layout_.dim + 1)));
    if (W == 1 && layout_.dim == 5)
      list_shared_corners<5>(piece, recent);
    else
      list_each_corner(piece, recent);
    piece.keys = recent.keys();
    piece.place = Array<int32_t>(piece.keys.size());
  }

  // Corner k is the remainder-0 vertex moved one step backwards along each of the k axes with the highest
  // ranks.
  void list_each_corner(const Piece& piece, RecentKeys<W>& recent) {
    const int dim = layout_.dim, corners = dim + 1, lead = layout_.lead;
    const Key<W> one_up = key_of<W>(1) << layout_.shift[lead];
    Key<W> step[max_dim + 1];
    for (int i = 0; i <= dim; ++i) step[i] = layout_.template step<W>(i);
    for (int64_t s = piece.begin; s < piece.end; ++s) {
      // Everything is read from the sorted key, because the points themselves are scattered in memory.
      const Key<W>& sorted_key = simplex(s);
      uint8_t* r = &rank_[static_cast<size_t>(s * corners)];
      permutation_of(sorted_key, corners, rank_bits_, r);
      int axis_of[max_dim + 1];
      for (int i = 0; i <= dim; ++i) axis_of[r[i]] = i;
      Key<W> key = sorted_key >> (dim * rank_bits_);
      if (r[lead] > r[lead + 1]) key = key + one_up;
      for (int k = 0; k <= dim; ++k) {
        place_[static_cast<size_t>(s * corners + k)] = recent.place_of(key);
        if (k < dim) key = key + step[axis_of[dim - k]];
      }
    }
  }

  // The same for D dimensions, where the simplices with equal coordinates look up each of their corners once.
  // A corner is then given by the set of the axes along which it was moved, and by whether the remainder-0
  // vertex is in the upper slab.
  template <int D>
  void list_shared_corners(const Piece& piece, RecentKeys<W>& recent) {
    constexpr int corners = D + 1, sets = 1 << corners, bits = 3;
    static_assert(corners <= 6);
    const int lead = layout_.lead;
    Key<W> offset[2 * sets];
    offset[0] = Key<W>::zero();
    offset[sets] = key_of<W>(1) << layout_.shift[lead];
    for (int set = 1; set < sets; ++set)
      for (int up = 0; up <= sets; up += sets)
        offset[up + set] = offset[up + (set & (set - 1))] +
                           layout_.template step<W>(std::countr_zero(static_cast<unsigned>(set)));
    int32_t place[2 * sets];
    uint8_t moved[720 * corners];
    for (int64_t s = piece.begin; s < piece.end;) {
      const Key<W> here = simplex(s) >> (D * bits);
      uint64_t seen[2] = {};
      uint8_t* set_of = moved;
      int64_t end = s;
      do {
        uint8_t* r = &rank_[static_cast<size_t>(end * corners)];
        permutation_of(simplex(end), corners, bits, r);
        uint8_t at[corners];
        for (int i = 0; i < corners; ++i) at[D - r[i]] = static_cast<uint8_t>(1 << i);
        const int up = r[lead] > r[lead + 1];
        unsigned set = 0;
        uint64_t own = 0;
        for (int k = 0; k < corners; ++k) {
          *set_of++ = static_cast<uint8_t>(up * sets + static_cast<int>(set));
          own |= uint64_t{1} << set;
          set |= at[k];
        }
        seen[up] |= own;
        ++end;
      } while (end < piece.end && simplex(end) >> (D * bits) == here);
      for (int up = 0; up < 2; ++up)
        for (uint64_t left = seen[up]; left; left &= left - 1) {
          const int set = up * sets + std::countr_zero(left);
          place[set] = recent.place_of(here + offset[set]);
        }
      int32_t* to = &place_[static_cast<size_t>(s * corners)];
      for (const uint8_t* m = moved; m != set_of; ++m) *to++ = place[*m];
      s = end;
    }
  }

  // Sorts the corners that lie in a band: of its own simplices, and of those of the band before it.
  void sort_band(size_t i) {
    Band& band = bands_[i];
    const bool last = i + 1 == bands_.size();
    const Key<W> high = bands_[i + !last].low;
    const size_t first = i ? bands_[i - 1].piece : 0;
    size_t room = 1;  // one more is written
    for (size_t p = first; p < band.end_piece; ++p) room += pieces_[p].keys.size();
    Array<Key<W>> keys(room);
    Array<int32_t*> to(room);
    size_t count = 0;
    for (size_t p = first; p < band.end_piece; ++p) {
      Piece& piece = pieces_[p];
      for (size_t k = 0; k < piece.keys.size(); ++k) {
        const Key<W> key = piece.keys[k];
        keys[count] = key;  // always written, because a branch would be unpredictable
        to[count] = &piece.place[k];
        const bool above = !(key < band.low), below = last || key < high;
        count += static_cast<size_t>(above & below);
      }
    }
    band.keys.resize(count);
    int32_t distinct = 0;
    Key<W> before = Key<W>::zero();
    each_sorted(keys.data(), static_cast<int64_t>(count), [&](const Key<W>& key, int64_t index) {
      distinct += distinct == 0 || !(key == before);
      band.keys[static_cast<size_t>(distinct) - 1] = before = key;
      *to[static_cast<size_t>(index)] = distinct - 1;
    });
    band.keys.resize(static_cast<size_t>(distinct));
  }
};

}  // namespace crfrnn
