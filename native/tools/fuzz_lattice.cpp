// SPDX-License-Identifier: MIT
// Lattices of unusual points. Checks that the structure is valid, that the filter equals a direct
// implementation, that its adjoint is its transpose, and that results are identical to the last bit for any
// number of threads.
#include <algorithm>
#include <bit>
#include <stdexcept>

#include "fuzz.hpp"

namespace crfrnn::fuzz {
namespace {

template <class T>
void check_structure(const Lattice& lattice, const BuildResult<T>& result, const uint8_t* mask) {
  const int corners = lattice.dim + 1;
  check(result.weights.size() == static_cast<size_t>(lattice.points * corners),
        "one weight for each corner of each valid point");
  std::vector<int> seen(static_cast<size_t>(lattice.total), 0);
  for (int64_t i = 0; i < lattice.points; ++i) {
    const int32_t p = lattice.order[i];
    check(p >= 0 && p < lattice.total && seen[static_cast<size_t>(p)]++ == 0,
          "the order holds every valid point once");
    check(!mask || mask[p], "a masked point makes no vertices");
    double sum = 0;
    for (int k = 0; k < corners; ++k) {
      const double w = static_cast<double>(result.weights[static_cast<size_t>(i * corners + k)]);
      check(w > -0.6 && w < 1.6, "barycentric weights between 0 and 1, but for rounding of far points");
      sum += w;
    }
    check(std::abs(sum - 1) < 1e-4, "barycentric weights sum to one");
  }
  check(lattice.simplex_start[0] == 0 && lattice.simplex_start[lattice.simplices] == lattice.points,
        "simplices hold all points");
  for (int64_t s = 0; s < lattice.simplices; ++s) {
    check(lattice.simplex_start[s] < lattice.simplex_start[s + 1], "no simplex without points");
    for (int k = 0; k < corners; ++k) {
      const int32_t v = lattice.simplex_vertex[s * corners + k];
      check(v >= 0 && v < lattice.vertices, "corners are vertices");
    }
  }
  check(lattice.slab_vertex[0] == 0 && lattice.slab_vertex[lattice.slabs] == lattice.vertices,
        "slabs hold all vertices");
  check(lattice.slab_simplex[lattice.slabs] == lattice.simplices, "slabs hold all simplices");
  // Along a group of axes, a vertex has as many outgoing as incoming links: every link has a reverse.
  for (int g = 0; g < lattice.groups() && lattice.together > 1; ++g) {
    std::vector<int> balance(static_cast<size_t>(lattice.vertices), 0);
    int64_t at = lattice.slab_link[g * lattice.slabs];
    for (int64_t v = 0; v < lattice.vertices; ++v)
      for (int n = std::popcount(static_cast<uint32_t>(lattice.link_mask[g * lattice.vertices + v])); n > 0;
           --n) {
        const int32_t u = lattice.link[at++];
        check(u >= 0 && u < lattice.vertices && u != v, "links lead to other vertices");
        ++balance[static_cast<size_t>(v)];
        --balance[static_cast<size_t>(u)];
      }
    check(std::all_of(balance.begin(), balance.end(), [](int n) { return n == 0; }),
          "each link has its way back");
  }
  for (int64_t j = 0; j < corners && lattice.together == 1; ++j) {
    const int32_t* plus = lattice.neighbour + 2 * j * lattice.vertices;
    const int32_t* minus = plus + lattice.vertices;
    for (int64_t v = 0; v < lattice.vertices; ++v) {
      check(plus[v] >= 0 && plus[v] <= lattice.vertices && minus[v] >= 0 && minus[v] <= lattice.vertices,
            "neighbours are vertices");
      check(plus[v] == lattice.vertices || minus[plus[v]] == v,
            "the neighbour's neighbour is the vertex itself");
    }
  }
}

// The blur of a group, added to `blurred`.
void blur_group(const Lattice& l, int which, size_t channels, const std::vector<double>& rows,
                std::vector<double>& blurred) {
  const AxisGroup group = l.group(which);
  const int32_t* link = l.link + l.slab_link[which * l.slabs];
  for (int64_t v = 0; v < l.vertices; ++v)
    for (int n = 0; n < group.offsets(); ++n) {
      if (n && !(l.link_mask[which * l.vertices + v] >> n & 1)) continue;
      const size_t from = static_cast<size_t>(n ? *link++ : v), to = static_cast<size_t>(v);
      const double share = std::pow(0.5, group.moves(n));
      for (size_t c = 0; c < channels; ++c) blurred[to * channels + c] += share * rows[from * channels + c];
    }
}

// Splat, blur and slice in double precision, in the order of the definition.
template <class T>
std::vector<double> plain_filter(const Lattice& l, const Array<T>& weights, const T* values, int64_t channels,
                                 bool reverse) {
  const int corners = l.dim + 1;
  const size_t size = static_cast<size_t>((l.vertices + 1) * channels),
               c_size = static_cast<size_t>(channels);
  std::vector<double> rows(size, 0.0), blurred(size, 0.0), out(static_cast<size_t>(l.total * channels), 0.0);
  const auto each = [&](const auto& body) {
    for (int64_t s = 0; s < l.simplices; ++s)
      for (int64_t p = l.simplex_start[s]; p < l.simplex_start[s + 1]; ++p)
        for (int k = 0; k < corners; ++k)
          for (size_t c = 0; c < c_size; ++c)
            body(static_cast<size_t>(l.simplex_vertex[s * corners + k]) * c_size + c,
                 static_cast<size_t>(l.order[p]) * c_size + c,
                 static_cast<double>(weights[static_cast<size_t>(p * corners + k)]));
  };
  each([&](size_t v, size_t p, double w) { rows[v] += w * static_cast<double>(values[p]); });
  for (int i = 0; i < l.groups() && l.together > 1; ++i) {
    std::fill(blurred.begin(), blurred.end(), 0.0);
    blur_group(l, reverse ? l.groups() - 1 - i : i, c_size, rows, blurred);
    rows.swap(blurred);
  }
  for (int i = 0; i < corners && l.together == 1; ++i) {
    const int axis = reverse ? l.dim - i : i;
    const int32_t* plus = l.neighbour + 2 * axis * l.vertices;
    for (int64_t v = 0; v < l.vertices; ++v)
      for (size_t c = 0; c < c_size; ++c)
        blurred[static_cast<size_t>(v) * c_size + c] =
            rows[static_cast<size_t>(v) * c_size + c] +
            0.5 * (rows[static_cast<size_t>(plus[v]) * c_size + c] +
                   rows[static_cast<size_t>(plus[v + l.vertices]) * c_size + c]);
    rows.swap(blurred);
    std::fill(rows.end() - channels, rows.end(), 0.0);  // the row of the absent neighbour
  }
  const double factor = 1.0 / (1.0 + std::pow(2.0, -l.dim));
  each([&](size_t v, size_t p, double w) { out[p] += factor * w * rows[v]; });
  return out;
}

template <class A, class B>
double dot(const A* a, const B* b, size_t n, double& magnitude) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    magnitude += std::abs(static_cast<double>(a[i]) * static_cast<double>(b[i]));
  }
  return sum;
}

template <class T>
void check_filter(Random& random, const Lattice& lattice, const Array<T>& weights, LatticePart part) {
  const double epsilon = sizeof(T) == 4 ? 2e-5 : 1e-12;
  // about as many as one walk can process
  const bool most = !random.small && random.chance(30);
  const int64_t many = most ? random.between(1000, 1100) : random.sized(1, 100, 20);
  const int64_t channels = random.chance(3) ? many : random.sized(0, 20, 6), size = lattice.total * channels;
  const auto x = normals<T>(random, size), y = normals<T>(random, size);
  const int threads = random.several();
  const auto& functions = filter_functions<T>();
  Exact<T> out[2] = {Exact<T>(size, T(-77)), Exact<T>(size, T(-77))};
  for (const bool reverse : {false, true}) {
    const T* in = (reverse ? y : x).get();
    Exact<T>& one = out[reverse];
    Exact<T> other(size, T(99));
    functions.filter(lattice, weights.data(), in, channels, reverse, one.get(), 1);
    functions.filter(lattice, weights.data(), in, channels, reverse, other.get(), threads);
    check(one.same_bits(other), "filter: any number of threads gives the same bits");
    if (part == LatticePart::gradient) break;  // needs no more than the forward filter
    const auto truth = plain_filter(lattice, weights, in, channels, reverse);
    double most = 1e-30;
    for (const double value : truth) most = std::max(most, std::abs(value));
    for (int64_t i = 0; i < size; ++i)
      check(std::abs(static_cast<double>(one[i]) - truth[static_cast<size_t>(i)]) <= 20 * epsilon * most,
            "filter: as the definition has it");
  }
  double magnitude = 1e-30;
  const double forward = dot(y.get(), out[0].get(), y.size, magnitude);
  if (part != LatticePart::gradient) {
    const double adjoint = dot(x.get(), out[1].get(), x.size, magnitude);
    check(std::abs(forward - adjoint) <= 10 * epsilon * magnitude, "adjoint identity <y, Kx> = <Kᵀy, x>");
    if (random.checks())
      without_memory(random, [&] {
        functions.filter(lattice, weights.data(), x.get(), channels, false, out[0].get(), threads);
      });
  }
  if (part == LatticePart::filter) return;

  Exact<T> gradient(lattice.points * (lattice.dim + 1)), again(lattice.points * (lattice.dim + 1));
  functions.weight_gradient(lattice, weights.data(), x.get(), y.get(), channels, gradient.get(), 1);
  functions.weight_gradient(lattice, weights.data(), x.get(), y.get(), channels, again.get(), threads);
  check(gradient.same_bits(again), "weight gradient: any number of threads gives the same bits");
  double size_of = magnitude;  // <y, Kx> is homogeneous of degree two in the weights (Euler)
  const double euler = dot(gradient.get(), weights.data(), gradient.size, size_of);
  check(std::abs(euler - 2 * forward) <= 20 * epsilon * size_of, "weight gradient: Euler's identity");

  if (random.checks())
    without_memory(random, [&] {
      functions.weight_gradient(lattice, weights.data(), x.get(), y.get(), channels, again.get(), threads);
    });

  Exact<T> slope(lattice.dim);
  for (int64_t s = 0; s < lattice.simplices; ++s)
    embed_functions<T>().feature_gradient(gradient.get() + lattice.simplex_start[s] * (lattice.dim + 1),
                                          lattice.simplex_rank + s * (lattice.dim + 1), lattice.dim,
                                          lattice.scale, slope.get());
}

}  // namespace

template <class T>
void lattice_case(Random& random, bool large, LatticePart part) {
  const bool many = !large && random.chance(random.small ? 16 : 5);
  const int dim = static_cast<int>(many ? random.between(9, max_dim) : random.sized(1, 8, 5));
  const int64_t batch = random.between(large ? 1 : 0, many && random.small ? 1 : 3);
  const int64_t points = large ? random.between(9000, 20000)
                               : random.below(random.chance(4) ? 3
                                              : many           ? random.small ? (dim > 16 ? 3 : 6) : 50
                                              : random.small   ? 24 / (batch + 1) + 1
                                                               : 300);
  const auto cloud = static_cast<Cloud>(random.below(static_cast<int64_t>(Cloud::count)));
  Exact<T> features(batch * points * dim);
  fill_features(random, cloud, dim, features);
  const int64_t kind = random.below(5);
  Exact<uint8_t> mask(batch * points, kind == 4 ? 0 : 1);
  if (kind == 3)
    for (size_t i = 0; i < mask.size; ++i) mask[static_cast<int64_t>(i)] = random.chance(3) ? 0 : 1;
  const uint8_t* valid = kind < 2 ? nullptr : mask.get();
  BuildOptions options;
  const double scales[] = {1.0, 1.25, 0.5, 2.0};
  options.scale = scales[random.below(4)];
  options.rings = many    ? 0
                  : large ? static_cast<int>(random.below(2))
                          : static_cast<int>(random.below(dim <= 4 ? 3 : 2));
  options.ring_support = static_cast<int>(random.between(1, 3));
  options.together = static_cast<int>(random.chance(2) ? 1 : random.between(2, 3));
  current_case() += " lattice d=" + std::to_string(dim) + " B=" + std::to_string(batch) +
                    " N=" + std::to_string(points) + " cloud=" + std::to_string(static_cast<int>(cloud)) +
                    " mask=" + std::to_string(kind) + " rings=" + std::to_string(options.rings) +
                    " together=" + std::to_string(options.together) +
                    (sizeof(T) == 4 ? " float32 " : " float64 ") + instruction_set();

  const auto result = build<T>(features.get(), valid, batch, points, dim, options);
  options.threads = random.several();
  const auto again = build<T>(features.get(), valid, batch, points, dim, options);
  check(result.status == again.status, "build: any number of threads gives the same status");
  bool finite = true;
  for (int64_t i = 0; i < batch * points * dim; ++i)
    finite &= std::isfinite(features[i]) || (valid && !valid[i / dim]);
  check(finite || result.status == BuildStatus::not_finite || result.status == BuildStatus::too_large,
        "build: NaN and infinity are refused");
  check(!finite || result.status != BuildStatus::not_finite,
        "build: finite features are not called infinite");
  if (result.status != BuildStatus::ok) return;
  check(cloud == Cloud::huge || cloud == Cloud::bad || result.status == BuildStatus::ok,
        "build: ordinary features are taken");
  check(result.table.size() == again.table.size() && result.weights.size() == again.weights.size() &&
            std::equal(result.table.data(), result.table.data() + result.table.size(), again.table.data(),
                       [&, i = size_t{0}](int32_t a, int32_t b) mutable { return i++, a == b; }) &&
            std::memcmp(result.weights.data(), again.weights.data(), result.weights.size() * sizeof(T)) == 0,
        "build: any number of threads gives the same bits");
  const Lattice lattice = Lattice::decode(result.table.data(), static_cast<int64_t>(result.table.size()));
  check(lattice.total == batch * points && lattice.dim == dim,
        "build: the table says what it was built from");
  if (part == LatticePart::all || part == LatticePart::build) {
    lattice.verify(options.threads, Lattice::everything);
    check_structure(lattice, result, valid);
    if (random.checks())
      without_memory(random, [&] { build<T>(features.get(), valid, batch, points, dim, options); });
  }
  if (part == LatticePart::build || (large && !random.chance(2))) return;
  check_filter(random, lattice, result.weights, part);
}
template void lattice_case<float>(Random&, bool, LatticePart);
template void lattice_case<double>(Random&, bool, LatticePart);

namespace {

// Runs every walk over a table that may be damaged, unless it is refused. If a point occurs twice, two
// threads may write the same numbers.
void walk_damaged(Random& random, const Lattice& lattice) {
  const int64_t channels = random.sized(1, 40, 9), corners = lattice.points * (lattice.dim + 1);
  const auto values = normals<float>(random, lattice.total * channels),
             weights = normals<float>(random, corners);
  Exact<float> out(lattice.total * channels), gradient(corners), slope(lattice.dim);
  const auto attempt = [&](unsigned reads, const auto& walk) {
    try {
      lattice.verify(random.several(), reads);
      std::vector<bool> seen(static_cast<size_t>(lattice.total), false);
      int threads = random.several();
      for (int64_t i = 0; i < lattice.points; ++i) {
        if (seen[static_cast<size_t>(lattice.order[i])]) threads = 1;
        seen[static_cast<size_t>(lattice.order[i])] = true;
      }
      walk(threads);
    } catch (const std::invalid_argument&) {
    }
  };
  for (const int64_t count : {channels, int64_t{1}})
    attempt(filter_reads(count), [&](int threads) {
      for (const bool reverse : {false, true})
        filter_functions<float>().filter(lattice, weights.get(), values.get(), count, reverse, out.get(),
                                         threads);
    });
  attempt(sweep_reads, [&](int threads) {
    filter_functions<float>().weight_gradient(lattice, weights.get(), values.get(), values.get(), channels,
                                              gradient.get(), threads);
  });
  attempt(Lattice::ranks, [&](int) {
    for (int64_t s = 0; s < lattice.simplices; ++s)
      embed_functions<float>().feature_gradient(gradient.get() + lattice.simplex_start[s] * (lattice.dim + 1),
                                                lattice.simplex_rank + s * (lattice.dim + 1), lattice.dim,
                                                lattice.scale, slope.get());
  });
  attempt(sweep_reads, [&](int threads) {
    Kernel kernel;
    kernel.is_lattice = true;
    kernel.lattice = lattice;
    kernel.weights = weights.get();
    Problem p;
    p.batch = 1;
    p.labels = channels;
    p.pixels = p.grid[2] = lattice.total;
    p.kernels = &kernel;
    p.kernel_count = 1;
    const auto transform = normals<float>(random, channels * channels);
    p.transform = transform.get();
    p.iterations = 2;
    p.threads = threads;
    Exact<float> kept(2 * p.plane()), gradient_u(lattice.total * channels), gradient_t(channels * channels);
    KernelGradient gradients{gradient.get(), nullptr, nullptr, nullptr};
    mean_field_functions().forward(p, values.get(), nullptr, {.logits = out.get()}, kept.get());
    mean_field_functions().backward(p, values.get(), kept.get(), gradient_u.get(), nullptr, gradient_t.get(),
                                    &gradients);
  });
}

}  // namespace

// A table that is truncated, or has a damaged header or damaged numbers, must be rejected, or every walk over
// it must stay within all arrays.
void table_case(Random& random) {
  current_case() += " table";
  const int dim = static_cast<int>(random.between(1, random.chance(random.small ? 16 : 4) ? max_dim : 5));
  const int64_t points = random.small ? 6 : 20;
  const auto features = normals<float>(random, points * dim);
  BuildOptions options;
  options.together = static_cast<int>(random.between(1, 3));
  const auto result = build<float>(features.get(), nullptr, 1, points, dim, options);
  const int64_t whole = static_cast<int64_t>(result.table.size());
  const int64_t size = random.chance(2) ? random.below(whole) : whole;
  Exact<int32_t> table(size);
  for (int64_t i = 0; i < size; ++i) table[i] = result.table[static_cast<size_t>(i)];
  const int64_t reach = random.chance(2) ? 12 : size;  // damages only the header, or everything
  if (size == whole || random.chance(2))
    for (int64_t i = random.between(1, 2); i > 0 && size; --i)
      table[random.below(size < reach ? size : reach)] = random.chance(2)
                                                             ? static_cast<int32_t>(random.bits())
                                                             : static_cast<int32_t>(random.between(-2, 9));
  try {
    const Lattice lattice = Lattice::decode(table.get(), size);
    check(lattice.dim >= 1 && lattice.dim <= max_dim && lattice.lead < lattice.dim, "decode: a sane header");
    // A damaged table may have more points than there are values for.
    if (lattice.total <= (random.small ? 100 : 100000)) walk_damaged(random, lattice);
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace crfrnn::fuzz
