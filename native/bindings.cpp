// SPDX-License-Identifier: MIT
// The only file that knows Python. dtype, contiguity and device are checked by the argument types, sizes here.
#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "dispatch.hpp"
#include "lattice.hpp"
#include "parallel.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace crfrnn {
namespace {

template <class T, size_t N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, size_t N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Table = In<int32_t, 1>;

template <class T>
nb::object to_numpy(Array<T>&& values, int64_t rows, int64_t columns) {
  auto owned = std::make_unique<Array<T>>(std::move(values));
  T* data = owned->data();
  nb::capsule capsule(owned.get(), [](void* p) noexcept { delete static_cast<Array<T>*>(p); });
  owned.release();  // now the capsule's
  if (columns < 0) return nb::cast(nb::ndarray<nb::numpy, T>(data, {static_cast<size_t>(rows)}, capsule));
  return nb::cast(nb::ndarray<nb::numpy, T>(data, {static_cast<size_t>(rows), static_cast<size_t>(columns)}, capsule));
}

// Python handles signals in its main thread, and only there is it asked for them.
bool ask_for_signals() {
  const nb::gil_scoped_acquire held;
  const nb::module_ threading = nb::module_::import_("threading");
  if (!threading.attr("current_thread")().is(threading.attr("main_thread")())) return false;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  return true;
}

// The core at work: other Python threads go on, and Ctrl-C ends the call.
struct Working {
  nb::gil_scoped_release released;
  Asking asking{&ask_for_signals};
};

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
nb::tuple build_lattice(In<T, 3> features, std::optional<In<uint8_t, 2>> mask, double scale, int rings, int ring_support,
                        int threads) {
  require(features.shape(2) >= 1 && features.shape(2) <= max_dim, "features: the last dimension must be 1 to 32");
  if (mask) require(mask->shape(0) == features.shape(0) && mask->shape(1) == features.shape(1), "mask: expected shape [B, N]");
  BuildResult<T> result;
  {
    const Working working;
    result = build<T>(features.data(), mask ? mask->data() : nullptr, static_cast<int64_t>(features.shape(0)),
                      static_cast<int64_t>(features.shape(1)), static_cast<int>(features.shape(2)),
                      {scale, rings, ring_support, threads});
  }
  if (result.status == BuildStatus::not_finite)
    throw std::invalid_argument(
        "features: expected finite numbers, got NaN or infinity; check the guide picture and the bandwidths");
  if (result.status == BuildStatus::too_large)
    throw std::invalid_argument(
        "features: too large for the precision of their dtype, lattice points would no longer be told apart; use float64, "
        "larger bandwidths, or subtract an offset");
  const int64_t size = static_cast<int64_t>(result.table.size());
  const int64_t corners = static_cast<int64_t>(features.shape(2)) + 1;
  const int64_t points = static_cast<int64_t>(result.weights.size()) / corners;
  return nb::make_tuple(to_numpy(std::move(result.weights), points, corners), to_numpy(std::move(result.table), size, -1));
}

Lattice decode(const Table& table, int64_t points, int64_t corners) {
  const Lattice lattice = Lattice::decode(table.data(), static_cast<int64_t>(table.shape(0)));
  require(points >= lattice.points && corners == lattice.dim + 1, "weights: do not belong to this structure");
  return lattice;
}
template <class T>
Lattice decode(const Table& table, const In<T, 2>& weights) {
  return decode(table, static_cast<int64_t>(weights.shape(0)), static_cast<int64_t>(weights.shape(1)));
}
void verify(Table table, int64_t points, int64_t corners) { decode(table, points, corners).verify(1); }

template <class T>
void filter(In<T, 2> values, In<T, 2> weights, Table table, bool reverse, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, weights);
  require(static_cast<int64_t>(values.shape(0)) == lattice.total && out.shape(0) == values.shape(0) && out.shape(1) == values.shape(1),
          "values: expected one row for each point the lattice was built from");
  const Working working;
  lattice.verify(threads);
  wish_for_huge_pages(out.data(), out.size() * sizeof(T));
  filter_functions<T>().filter(lattice, weights.data(), values.data(), static_cast<int64_t>(values.shape(1)), reverse,
                               out.data(), threads);
}

template <class T>
void weight_gradient(In<T, 2> x, In<T, 2> g, In<T, 2> weights, Table table, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, weights);
  require(static_cast<int64_t>(x.shape(0)) == lattice.total && g.shape(0) == x.shape(0) && g.shape(1) == x.shape(1) &&
              out.shape(0) == weights.shape(0) && out.shape(1) == weights.shape(1),
          "values: expected one row for each point the lattice was built from");
  const Working working;
  lattice.verify(threads);
  filter_functions<T>().weight_gradient(lattice, weights.data(), x.data(), g.data(), static_cast<int64_t>(x.shape(1)),
                                        out.data(), threads);
}

// Gradient of the weights (sorted order) -> gradient of the features (the points' own order).
template <class T>
void feature_gradient(In<T, 2> grad_weights, Table table, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, grad_weights);
  require(static_cast<int64_t>(out.shape(0)) == lattice.total && static_cast<int>(out.shape(1)) == lattice.dim,
          "out: expected [points, d]");
  const Working working;
  lattice.verify(threads);
  const int corners = lattice.dim + 1;
  const auto& functions = embed_functions<T>();
  if (lattice.points < lattice.total) std::fill(out.data(), out.data() + lattice.total * lattice.dim, T(0));
  parallel_ranges(lattice.simplices, 1024, threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p)
        functions.feature_gradient(grad_weights.data() + p * corners, lattice.simplex_rank + s * corners, lattice.dim, lattice.scale,
                                   out.data() + int64_t{lattice.order[p]} * lattice.dim);
  });
}

// A problem and what keeps its parts alive. kernels: (weights, table, theta, pre, post) each, weights None for a
// separable kernel.
struct Arguments {
  Problem problem;
  std::vector<Kernel> kernels;

  Arguments(int64_t batch, int64_t labels, int64_t pixels, const In<float, 3>& transform, const nb::list& list,
            const std::vector<int64_t>& grid, const std::optional<In<uint8_t, 2>>& mask, const std::optional<In<int32_t, 2>>& clamp, int iterations, float damping,
            int threads) {
    problem.batch = batch;
    problem.labels = labels;
    problem.pixels = pixels;
    require(problem.labels >= 1 && problem.labels <= 1024, "unary: expected 1 to 1024 labels");
    require(problem.total() <= INT32_MAX, "unary: more than 2^31 pixels; split the batch");
    require(grid.size() == 3 && grid[0] >= 0 && grid[1] >= 0 && grid[2] >= 0 && grid[0] * grid[1] * grid[2] == problem.pixels, "grid: does not hold the pixels");
    for (size_t i = 0; i < 3; ++i) problem.grid[i] = grid[i];
    const size_t count = nb::len(list), side = static_cast<size_t>(labels);
    require(transform.shape(0) == count && transform.shape(1) == side && transform.shape(2) == side,
            "transform: expected [kernels, L, L]");
    const auto per_pixel = [&](const nb::handle& h) -> const float* {
      if (h.is_none()) return nullptr;
      const auto array = nb::cast<In<float, 1>>(h);
      require(static_cast<int64_t>(array.shape(0)) == problem.total(), "pre, post: expected one number per pixel");
      return array.data();
    };
    for (size_t m = 0; m < count; ++m) {
      const nb::tuple k = nb::cast<nb::tuple>(list[m]);
      require(nb::len(k) == 5, "kernels: expected (weights, table, theta, pre, post) for each kernel");
      Kernel kernel;
      kernel.is_lattice = !k[0].is_none();
      if (kernel.is_lattice) {
        const auto weights = nb::cast<In<float, 2>>(k[0]);
        kernel.lattice = decode<float>(nb::cast<Table>(k[1]), weights);
        require(kernel.lattice.total == problem.total(), "kernels: a lattice of other points than the unary's pixels");
        kernel.weights = weights.data();
      } else {
        const auto theta = nb::cast<std::vector<double>>(k[2]);
        require(theta.size() == 3 && theta[0] > 0 && theta[1] > 0 && theta[2] > 0, "theta: expected three positive numbers");
        for (size_t i = 0; i < 3; ++i) kernel.theta[i] = theta[i];
      }
      kernel.pre = per_pixel(k[3]);
      kernel.post = per_pixel(k[4]);
      kernels.push_back(kernel);
    }
    problem.kernels = kernels.data();
    problem.kernel_count = static_cast<int>(count);
    problem.transform = transform.data();
    const auto fits = [&](const auto& array) { return static_cast<int64_t>(array.shape(0)) == batch && static_cast<int64_t>(array.shape(1)) == pixels; };
    if (mask) require(fits(*mask), "mask: expected [B, N]");
    if (clamp) require(fits(*clamp), "clamp: expected [B, N]");
    problem.mask = mask ? mask->data() : nullptr;
    problem.clamp = clamp ? clamp->data() : nullptr;
    problem.iterations = iterations;
    problem.damping = damping;
    problem.threads = threads;
  }
  Arguments(const In<float, 3>& planes, const In<float, 3>& transform, const nb::list& list, const std::vector<int64_t>& grid,
            const std::optional<In<uint8_t, 2>>& mask, const std::optional<In<int32_t, 2>>& clamp, int iterations, float damping,
            int threads)
      : Arguments(static_cast<int64_t>(planes.shape(0)), static_cast<int64_t>(planes.shape(1)), static_cast<int64_t>(planes.shape(2)),
                  transform, list, grid, mask, clamp, iterations, damping, threads) {}
  Arguments(const Arguments&) = delete;

  void verify() const {
    for (const Kernel& kernel : kernels)
      if (kernel.is_lattice) kernel.lattice.verify(problem.threads);
  }
};

using Marginals = Out<float, 1>;

// Memory for marginals, from the region that is kept: one set for each iteration is the most that a training step clears.
nb::object rows(int64_t numbers) { return to_numpy(Array<float>(static_cast<size_t>(numbers)), numbers, -1); }

void require_size(const Marginals& marginals, const Problem& problem) {
  require(static_cast<int64_t>(marginals.size()) == problem.iterations * problem.plane(),
          "marginals: expected iterations * (pixels * labels + 32) numbers");
}

void mean_field(In<float, 3> unary, std::optional<In<float, 3>> initial, In<float, 3> transform, nb::list kernels,
                std::vector<int64_t> grid, std::optional<In<uint8_t, 2>> mask, std::optional<In<int32_t, 2>> clamp, int iterations,
                float damping, int threads, Out<float, 3> logits, std::optional<Marginals> marginals) {
  const Arguments arguments(unary, transform, kernels, grid, mask, clamp, iterations, damping, threads);
  if (marginals) require_size(*marginals, arguments.problem);
  require(logits.size() == unary.size() && (!initial || initial->size() == unary.size()), "logits, initial: expected unary's shape");
  bool finite;
  {
    const Working working;
    arguments.verify();
    wish_for_huge_pages(logits.data(), logits.size() * sizeof(float));
    finite = mean_field_functions().forward(arguments.problem, unary.data(), initial ? initial->data() : nullptr, logits.data(),
                                            marginals ? marginals->data() : nullptr);
  }
  if (!finite)
    throw std::invalid_argument(
        "unary: expected finite logits, got NaN or infinity; replace infinite logits by large finite ones, for instance "
        "unary.clamp(-50, 50), and look for the NaN in the network");
}

void update(In<float, 2> unary, In<float, 2> marginals, In<float, 3> transform, nb::list kernels, bool normalize, int threads,
            Out<float, 2> out) {
  const int64_t pixels = static_cast<int64_t>(unary.shape(0)), labels = static_cast<int64_t>(unary.shape(1));
  const Arguments arguments(1, labels, pixels, transform, kernels, {1, 1, pixels}, std::nullopt, std::nullopt, 1, 1.f, threads);
  for (const Kernel& kernel : arguments.kernels) require(kernel.is_lattice, "kernels: expected lattices");
  const auto fits = [&](const auto& array) { return array.shape(0) == unary.shape(0) && array.shape(1) == unary.shape(1); };
  require(fits(marginals) && fits(out), "marginals, out: expected unary's shape");
  require(normalize || out.data() != marginals.data(), "out: expected other memory than that of the marginals");
  const Working working;
  arguments.verify();
  mean_field_functions().update(arguments.problem, unary.data(), marginals.data(), normalize, out.data());
}

// Where a gradient of so many numbers, or more, goes; null: it is not wanted.
template <class T, size_t N>
T* gradient(const nb::handle& given, int64_t numbers) {
  if (given.is_none()) return nullptr;
  const auto array = nb::cast<Out<T, N>>(given);
  require(static_cast<int64_t>(array.size()) >= numbers, "grads: too few numbers for this kernel");
  return array.data();
}

// grads: (weights or None, theta or None, pre or None, post or None) for each kernel, filled with zeros.
void mean_field_backward(In<float, 3> grad_logits, Marginals marginals, In<float, 3> transform, nb::list kernels,
                         std::vector<int64_t> grid, std::optional<In<uint8_t, 2>> mask, std::optional<In<int32_t, 2>> clamp,
                         int iterations, float damping, int threads, Out<float, 3> grad_unary, std::optional<Out<float, 3>> grad_initial,
                         Out<float, 3> grad_transform, nb::list grads) {
  const Arguments arguments(grad_logits, transform, kernels, grid, mask, clamp, iterations, damping, threads);
  require_size(marginals, arguments.problem);
  require(grad_unary.size() == grad_logits.size() && (!grad_initial || grad_initial->size() == grad_logits.size()) &&
              grad_transform.size() == transform.size(),
          "grad_unary, grad_initial, grad_transform: expected the shapes of what they are the gradients of");
  std::vector<KernelGradient> out(arguments.kernels.size());
  require(nb::len(grads) == out.size(), "grads: expected one tuple a kernel");
  for (size_t m = 0; m < out.size(); ++m) {
    const nb::tuple g = nb::cast<nb::tuple>(grads[m]);
    require(nb::len(g) == 4, "grads: expected (weights, theta, pre, post) for each kernel");
    const Kernel& kernel = arguments.kernels[m];
    const int64_t corners = kernel.lattice.dim + 1, points = kernel.lattice.points, total = arguments.problem.total();
    out[m].weights = gradient<float, 2>(g[0], kernel.is_lattice ? points * corners : 0);
    out[m].theta = gradient<double, 1>(g[1], kernel.is_lattice ? 0 : 3);
    out[m].pre = gradient<float, 1>(g[2], total);
    out[m].post = gradient<float, 1>(g[3], total);
  }
  const Working working;
  arguments.verify();
  wish_for_huge_pages(grad_unary.data(), grad_unary.size() * sizeof(float));
  mean_field_functions().backward(arguments.problem, grad_logits.data(), marginals.data(), grad_unary.data(),
                                  grad_initial ? grad_initial->data() : nullptr, grad_transform.data(), out.data());
}

template <class T>
void define(nb::module_& m) {
  m.def("build", &build_lattice<T>, "features"_a, "mask"_a.none(), "scale"_a, "rings"_a, "ring_support"_a, "threads"_a);
  m.def("filter", &filter<T>, "values"_a, "weights"_a, "table"_a, "reverse"_a, "threads"_a, "out"_a);
  m.def("weight_gradient", &weight_gradient<T>, "x"_a, "g"_a, "weights"_a, "table"_a, "threads"_a, "out"_a);
  m.def("feature_gradient", &feature_gradient<T>, "grad_weights"_a, "table"_a, "threads"_a, "out"_a);
}

}  // namespace
}  // namespace crfrnn

NB_MODULE(_native, m) {
  using namespace crfrnn;
  define<float>(m);
  define<double>(m);
  m.def("verify", &verify, "table"_a, "points"_a, "corners"_a);
  m.def("rows", &rows, "numbers"_a);
  m.def("mean_field", &mean_field, "unary"_a, "initial"_a.none(), "transform"_a, "kernels"_a, "grid"_a, "mask"_a.none(),
        "clamp"_a.none(), "iterations"_a, "damping"_a, "threads"_a, "logits"_a, "marginals"_a.none());
  m.def("mean_field_backward", &mean_field_backward, "grad_logits"_a, "marginals"_a, "transform"_a, "kernels"_a, "grid"_a,
        "mask"_a.none(), "clamp"_a.none(), "iterations"_a, "damping"_a, "threads"_a, "grad_unary"_a, "grad_initial"_a.none(),
        "grad_transform"_a, "grads"_a);
  m.def("update", &update, "unary"_a, "marginals"_a, "transform"_a, "kernels"_a, "normalize"_a, "threads"_a, "out"_a);
  m.def("release_kept_memory", &release_kept_memory);
  m.def("poison_memory", &poison_memory, "on"_a);
  m.def("refuse_memory", &refuse_memory, "count"_a);
  m.def("memory_in_use", &memory_in_use);
  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", &instruction_set);
  m.def("use_instruction_set", &use_instruction_set, "name"_a);
}
