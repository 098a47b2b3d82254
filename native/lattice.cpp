// SPDX-License-Identifier: MIT
#include "lattice.hpp"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "corners.hpp"
#include "dispatch.hpp"
#include "layout.hpp"
#include "links.hpp"
#include "neighbours.hpp"
#include "prefetch.hpp"
#include "unique.hpp"

namespace crfrnn {
namespace {

// The valid points: all points, or a list of them.
struct Points {
  List<int32_t> list;
  int64_t count, per_picture;

  Points(const uint8_t* mask, int64_t total, int64_t per_picture_)
      : count(total), per_picture(per_picture_ < 1 ? 1 : per_picture_) {
    if (!mask) return;
    list.reserve(static_cast<size_t>(total));
    for (int64_t i = 0; i < total; ++i)
      if (mask[i]) list.push_back(static_cast<int32_t>(i));
    count = static_cast<int64_t>(list.size());
  }
  int32_t operator[](int64_t p) const {
    return list.empty() ? static_cast<int32_t>(p) : list[static_cast<size_t>(p)];
  }
};

// The simplex of every point: its remainder-0 vertex and the order of its ranks. Sorted first by the lower
// slab: some corners are one slab below the remainder-0 vertex exactly if the rank of `lead` is greater than
// that of lead + 1.
template <class T, int W>
Array<Keyed<W>> simplex_keys(const Points& points, const Embedded<T>& embedded, const Layout& layout,
                             int rank_bits, int threads) {
  constexpr int64_t block = embed_block<T>;
  const int dim = layout.dim, lead = layout.lead;
  Array<Keyed<W>> items(static_cast<size_t>(points.count));
  parallel_ranges((points.count + block - 1) / block, 256, threads, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * block; first < end * block; first += block) {
      const Coordinate<T>* f = embedded.coordinates + first * dim;
      const uint8_t* r = embedded.rank + first * (dim + 1);
      const int64_t count = std::min(block, points.count - first);
      Key<W> key[block];
      for (int64_t p = 0; p < count; ++p)
        key[p] = key_of<W>(points[first + p] / points.per_picture) << layout.picture_shift;
      for (int i = 0; i < dim; ++i)
        for (int64_t p = 0; p < count; ++p) {
          const int64_t below = i == lead && r[i * block + p] > r[(i + 1) * block + p];
          key[p] = key[p] + (key_of<W>(f[i * block + p] - layout.low[i] - below) << layout.shift[i]);
        }
      for (int i = 0; i < dim; ++i)
        for (int64_t p = 0; p < count; ++p) key[p] = (key[p] << rank_bits) + key_of<W>(r[i * block + p]);
      for (int64_t p = 0; p < count; ++p)
        items[static_cast<size_t>(first + p)] = {key[p], static_cast<int32_t>(first + p)};
    }
  });
  return items;
}

// Adds rings of missing vertices around `keys`; returns the new numbers of the given ones.
template <int W>
List<int32_t> add_rings(List<Key<W>>& keys, const Layout& layout, const BuildOptions& options) {
  List<int32_t> moved;
  if (options.rings <= 0) return moved;
  List<Key<W>> grown = grow(keys, layout, options.ring_support, options.threads);
  for (int ring = 1; ring < options.rings; ++ring)
    grown = grow(grown, layout, options.ring_support, options.threads);
  moved.reserve(keys.size());
  size_t j = 0;
  each_in_turn(0, static_cast<int64_t>(keys.size()), [&](int64_t i) {
    while (!(grown[j] == keys[static_cast<size_t>(i)])) ++j;
    moved.push_back(static_cast<int32_t>(j));
  });
  keys.swap(grown);
  return moved;
}

// The starts of the slabs, plus an empty slab wherever a single f_lead has no vertices, because an offset of
// a group may lead two slabs away.
template <int W>
List<int32_t> with_gaps(const List<int32_t>& starts, const List<Key<W>>& keys, const Layout& layout) {
  const auto slab_of = [&](int32_t v) { return keys[static_cast<size_t>(v)] >> layout.slab_shift; };
  List<int32_t> all;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    if (i > 0 && slab_of(starts[i]) == slab_of(starts[i - 1]) + key_of<W>(2)) all.push_back(starts[i]);
    all.push_back(starts[i]);
  }
  all.push_back(starts.back());
  return all;
}

// Builds the table. Sorts the simplices' keys, after which `items` holds the order of the points.
template <int W>
Array<int32_t> assemble(Array<Keyed<W>>& items, const Points& valid, const Layout& layout, int64_t total,
                        const BuildOptions& options) {
  const int corners = layout.dim + 1, lead = layout.lead, threads = options.threads;
  const int rank_bits = bits_for(static_cast<uint64_t>(corners));
  sort_keyed(items, threads);
  // The sorted position of the first point of each simplex.
  const List<int32_t> first = run_starts(valid.count, threads, [&](int64_t i) {
    return items[static_cast<size_t>(i)].key == items[static_cast<size_t>(i) - 1].key;
  });
  Corners<W> corners_of(items, first, layout, rank_bits, threads);
  List<Key<W>> keys = corners_of.keys();
  const List<int32_t> moved = add_rings(keys, layout, options);
  List<int32_t> slab_vertex = run_starts(static_cast<int64_t>(keys.size()), threads, [&](int64_t v) {
    return keys[static_cast<size_t>(v)] >> layout.slab_shift ==
           keys[static_cast<size_t>(v) - 1] >> layout.slab_shift;
  });

  TableShape shape;
  shape.together = std::min(options.together, layout.dim);
  if (shape.together > 1) slab_vertex = with_gaps(slab_vertex, keys, layout);
  shape.dim = layout.dim;
  shape.lead = lead;
  shape.points = valid.count;
  shape.simplices = static_cast<int64_t>(first.size()) - 1;
  shape.vertices = static_cast<int64_t>(keys.size());
  shape.slabs = static_cast<int64_t>(slab_vertex.size()) - 1;
  shape.total = total;
  shape.scale = options.scale;
  Links links;
  if (shape.together > 1) {
    links = LinkFinder<W>(shape, keys, slab_vertex, layout).find(threads);
    shape.links = links.start.back();
  }
  Array<int32_t> table(static_cast<size_t>(shape.words()));
  const Header header = shape.header();
  std::memcpy(table.data(), &header, sizeof header);
  const Lattice view = Lattice::decode(table.data(), static_cast<int64_t>(table.size()));
  const auto writable = [](const auto* p) {
    return const_cast<std::remove_const_t<std::remove_pointer_t<decltype(p)>>*>(p);
  };

  parallel_ranges(view.points, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      writable(view.order)[i] = valid[items[static_cast<size_t>(i)].value];
  });
  const auto copy = [&](const auto& from, const int32_t* to) {
    parallel_ranges(static_cast<int64_t>(from.size()), 4096, threads, [&](int64_t begin, int64_t end) {
      std::copy(from.data() + begin, from.data() + end, writable(to) + begin);
    });
  };
  copy(first, view.simplex_start);
  corners_of.write(moved, writable(view.simplex_vertex), writable(view.simplex_rank), threads);
  // Clears the bytes that pad the ranks to whole words, so that the same points always give a bit-identical
  // table.
  std::fill(writable(view.simplex_rank) + view.simplices * corners,
            reinterpret_cast<uint8_t*>(writable(view.neighbour)), uint8_t{0});
  copy(slab_vertex, view.slab_vertex);
  if (view.together > 1) {
    copy(links.mask, view.link_mask);
    copy(links.slab_link, view.slab_link);
    parallel_for(static_cast<int64_t>(links.pieces.size()), threads, [&](int64_t i, int) {
      const List<int32_t>& piece = links.pieces[static_cast<size_t>(i)];
      std::copy(piece.begin(), piece.end(), writable(view.link) + links.start[static_cast<size_t>(i)]);
    });
  } else {
    find_neighbours(view, keys, layout, writable(view.neighbour), threads);
    list_chains(view, writable(view.chain), writable(view.chain_end), threads);
  }
  int64_t s = 0;
  for (int64_t slab = 0; slab < view.slabs; ++slab) {
    check_stop();
    writable(view.slab_simplex)[slab] = static_cast<int32_t>(s);
    if (view.slab_vertex[slab] == view.slab_vertex[slab + 1]) continue;
    const Key<W> here =
        keys[static_cast<size_t>(slab_vertex[static_cast<size_t>(slab)])] >> layout.slab_shift;
    const auto slab_of = [&](int64_t simplex) {
      return items[static_cast<size_t>(first[static_cast<size_t>(simplex)])].key >>
             (layout.slab_shift + layout.dim * rank_bits);
    };
    // the end of the slab: by steps that double, then by ever shorter ones
    int64_t step = 1;
    const auto inside = [&] { return s + step <= view.simplices && slab_of(s + step - 1) == here; };
    for (; inside(); step *= 2) s += step;
    for (; step > 0; step /= 2)
      if (inside()) s += step;
  }
  writable(view.slab_simplex)[view.slabs] = static_cast<int32_t>(s);
  return table;
}

// Permutes barycentric weights from the points' order to that of the lattice.
template <class T, int W>
Array<T> sorted_weights(const Array<Keyed<W>>& items, const T* weights, int corners, int threads) {
  const int64_t points = static_cast<int64_t>(items.size());
  Array<T> out(static_cast<size_t>(points * corners));
  const auto weights_of = [&](int64_t i) {
    return weights + int64_t{items[static_cast<size_t>(i)].value} * corners;
  };
  parallel_ranges(points, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead < end)
        prefetch_bytes(weights_of(i + ahead), corners * static_cast<int64_t>(sizeof(T)) + 63);
      std::copy_n(weights_of(i), corners, &out[static_cast<size_t>(i * corners)]);
    }
  });
  return out;
}

}  // namespace

TableShape TableShape::of(const int32_t* table, int64_t size) {
  if (size < header_words) throw std::invalid_argument("structure: not a lattice table (too short)");
  Header header;
  std::memcpy(&header, table, sizeof header);
  TableShape s;
  s.dim = header.dim;
  s.lead = header.lead;
  s.points = header.points;
  s.simplices = header.simplices;
  s.vertices = header.vertices;
  s.slabs = header.slabs;
  s.total = header.total;
  s.together = header.together;
  s.links = header.links;
  s.scale = header.scale;
  if (header.magic != Header::magic_word || s.dim < 1 || s.dim > max_dim || s.lead < 0 || s.lead >= s.dim ||
      s.points < 0 || s.simplices < 0 || s.vertices < 0 || s.slabs < 0 || s.total < s.points ||
      s.together < 1 || s.together > std::min(s.dim, AxisGroup::most_axes) || s.links < 0)
    throw std::invalid_argument(
        "structure: not a lattice table; pass the structure that Lattice.build returned");
  return s;
}

Header TableShape::header() const {
  Header header{};
  header.magic = Header::magic_word;
  header.dim = dim;
  header.lead = lead;
  header.points = static_cast<int32_t>(points);
  header.simplices = static_cast<int32_t>(simplices);
  header.vertices = static_cast<int32_t>(vertices);
  header.slabs = static_cast<int32_t>(slabs);
  header.total = static_cast<int32_t>(total);
  header.together = together;
  header.links = static_cast<int32_t>(links);
  header.scale = scale;
  return header;
}

std::array<int64_t, 13> TableShape::parts() const {
  const int64_t corners = dim + 1, inner = dim - 1;  // inner: the axes whose neighbours are in the same slab
  const int64_t single = together == 1, grouped = 1 - single;
  return {header_words,
          points,
          simplices + 1,
          simplices * corners,
          (simplices * corners + 3) / 4,
          single * 2 * corners * vertices,
          slabs + 1,
          slabs + 1,
          single * inner * vertices,
          single * inner * slabs,
          grouped * groups() * vertices,
          grouped * links,
          grouped * (groups() * slabs + 1)};
}

int64_t TableShape::words() const {
  int64_t sum = 0;
  for (const int64_t part : parts()) sum += part;
  return sum;
}

Lattice Lattice::decode(const int32_t* table, int64_t size) {
  Lattice lattice{TableShape::of(table, size)};
  const auto parts = lattice.parts();
  if (lattice.words() > size) throw std::invalid_argument("structure: lattice table cut short");
  const int32_t* at[parts.size()];
  for (size_t i = 0; i < parts.size(); table += parts[i++]) at[i] = table;
  lattice.order = at[1];
  lattice.simplex_start = at[2];
  lattice.simplex_vertex = at[3];
  lattice.simplex_rank = reinterpret_cast<const uint8_t*>(at[4]);
  lattice.neighbour = at[5];
  lattice.slab_vertex = at[6];
  lattice.slab_simplex = at[7];
  lattice.chain = at[8];
  lattice.chain_end = at[9];
  lattice.link_mask = at[10];
  lattice.link = at[11];
  lattice.slab_link = at[12];
  return lattice;
}

template <class T>
BuildResult<T> build(const T* features, const uint8_t* mask, int64_t batch, int64_t points_per_item, int dim,
                     const BuildOptions& options) {
  BuildResult<T> result;
  const int64_t total = batch * points_per_item;
  if (total * (dim + 1) > INT32_MAX)
    throw std::invalid_argument(
        "features: more than 2^31 lattice corners; split the batch or tile the picture");
  const Points valid(mask, total, points_per_item);
  const int64_t points = valid.count;
  Array<T> kept;
  if (points < total) {
    kept = Array<T>(static_cast<size_t>(points * dim));
    parallel_ranges(points, 4096, options.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(features + int64_t{valid[i]} * dim, dim, &kept[static_cast<size_t>(i * dim)]);
    });
    features = kept.data();
  }

  const int64_t whole = (points + embed_block<T> - 1) / embed_block<T> * embed_block<T>;
  Array<Coordinate<T>> coordinates(static_cast<size_t>(whole * dim));
  Array<uint8_t> rank(static_cast<size_t>(whole * (dim + 1)));
  Array<T> weights(static_cast<size_t>(points * (dim + 1)));
  const Embedded<T> embedded{coordinates.data(), rank.data(), weights.data()};
  constexpr int64_t range = block_size(8192, 16);
  const int64_t ranges = (points + range - 1) / range;
  List<int> status(static_cast<size_t>(ranges), 0);
  List<T> least(static_cast<size_t>(ranges * dim)), most(static_cast<size_t>(ranges * dim));
  const EmbedTable<T>& functions = embed_functions<T>();
  parallel_for(ranges, options.threads, [&](int64_t c, int) {
    T lowest[max_dim], highest[max_dim];  // local to this range, to avoid false sharing
    const int code = functions.embed(features, c * range, std::min(points, (c + 1) * range), dim,
                                     options.scale, embedded, lowest, highest);
    status[static_cast<size_t>(c)] = code;
    if (code) return;
    std::copy_n(lowest, dim, &least[static_cast<size_t>(c * dim)]);
    std::copy_n(highest, dim, &most[static_cast<size_t>(c * dim)]);
  });
  for (const int code : status)
    if (code) {
      result.status = code == 1 ? BuildStatus::not_finite : BuildStatus::too_large;
      return result;
    }
  int64_t low[max_dim] = {}, high[max_dim] = {};
  for (int i = 0; i < dim && points; ++i) {
    low[i] = INT64_MAX;
    high[i] = INT64_MIN;
    for (int64_t c = 0; c < ranges; ++c) {
      low[i] = std::min(low[i], static_cast<int64_t>(least[static_cast<size_t>(c * dim + i)]));
      high[i] = std::max(high[i], static_cast<int64_t>(most[static_cast<size_t>(c * dim + i)]));
    }
  }
  // Corners are within ±1 of the remainder-0 vertex. Each ring adds one, a step of the blur adds one, and an
  // offset of a group adds two.
  const Layout layout(dim, low, high, batch, 2 + options.rings + (options.together > 1));
  const int rank_bits = bits_for(static_cast<uint64_t>(dim) + 1), bits = layout.bits + dim * rank_bits;
  const auto go = [&]<int W>() {
    Array<Keyed<W>> items = simplex_keys<T, W>(valid, embedded, layout, rank_bits, options.threads);
    coordinates = {};
    rank = {};
    result.table = assemble(items, valid, layout, total, options);
    result.weights = sorted_weights(items, embedded.weights, dim + 1, options.threads);
  };
  if (bits <= 64)
    go.template operator()<1>();
  else if (bits <= 128)
    go.template operator()<2>();
  else if (bits <= 256)
    go.template operator()<4>();
  else if (bits <= 512)
    go.template operator()<8>();
  else if (bits <= 64 * 28)  // more than the limits of embed.cpp allow in 32 dimensions
    go.template operator()<28>();
  else
    result.status = BuildStatus::too_large;
  return result;
}

template BuildResult<float> build(const float*, const uint8_t*, int64_t, int64_t, int, const BuildOptions&);
template BuildResult<double> build(const double*, const uint8_t*, int64_t, int64_t, int, const BuildOptions&);

}  // namespace crfrnn
