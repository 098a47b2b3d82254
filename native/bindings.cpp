// SPDX-License-Identifier: MIT
// The only file that depends on Python. The argument types check dtype, contiguity and device; sizes are
// checked here.
#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
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

template <class Array>
auto* data_of(const std::optional<Array>& array) {
  return array ? array->data() : nullptr;
}

template <class T, size_t N>
using Numpy = nb::ndarray<nb::numpy, T, nb::ndim<N>, nb::c_contig>;

template <class T, size_t N>
Numpy<T, N> to_numpy(Array<T>&& values, const std::array<int64_t, N>& shape) {
  auto owned = std::make_unique<Array<T>>(std::move(values));
  T* data = owned->data();
  nb::capsule capsule(owned.get(), [](void* p) noexcept { delete static_cast<Array<T>*>(p); });
  owned.release();  // the capsule owns it now
  size_t lengths[N];
  std::copy(shape.begin(), shape.end(), lengths);
  return Numpy<T, N>(data, N, lengths, capsule);
}

// Python handles signals in its main thread, so only that thread checks for them.
bool ask_for_signals() {
  const nb::gil_scoped_acquire held;
  const nb::module_ threading = nb::module_::import_("threading");
  if (!threading.attr("current_thread")().is(threading.attr("main_thread")())) return false;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
  return true;
}

// While the core runs, other Python threads can continue, and Ctrl-C ends the call.
struct Working {
  nb::gil_scoped_release released;
  Asking asking{&ask_for_signals};
};

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class T>
std::pair<Numpy<T, 2>, Numpy<int32_t, 1>> build_lattice(In<T, 3> features, std::optional<In<uint8_t, 2>> mask,
                                                        double scale, int rings, int ring_support,
                                                        int together, int threads) {
  require(features.shape(2) >= 1 && features.shape(2) <= max_dim,
          "features: the last dimension must be 1 to 32");
  if (mask)
    require(mask->shape(0) == features.shape(0) && mask->shape(1) == features.shape(1),
            "mask: expected shape [B, N]");
  require(together >= 1 && together <= AxisGroup::most_axes, "together: expected 1 to 3");
  BuildResult<T> result;
  {
    const Working working;
    result = build<T>(features.data(), mask ? mask->data() : nullptr, static_cast<int64_t>(features.shape(0)),
                      static_cast<int64_t>(features.shape(1)), static_cast<int>(features.shape(2)),
                      {scale, rings, ring_support, together, threads});
  }
  if (result.status == BuildStatus::not_finite)
    throw std::invalid_argument(
        "features: expected finite numbers, got NaN or infinity; check the guide picture and the bandwidths");
  if (result.status == BuildStatus::too_large)
    throw std::invalid_argument(
        "features: too large for the precision of their dtype, lattice points would no longer be told "
        "apart; use float64, larger bandwidths, or subtract an offset");
  const int64_t size = static_cast<int64_t>(result.table.size());
  const int64_t corners = static_cast<int64_t>(features.shape(2)) + 1;
  const int64_t points = static_cast<int64_t>(result.weights.size()) / corners;
  return {to_numpy<T, 2>(std::move(result.weights), {points, corners}),
          to_numpy<int32_t, 1>(std::move(result.table), {size})};
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
void verify(Table table, int64_t points, int64_t corners) {
  decode(table, points, corners).verify(1, Lattice::everything);
}

template <class T>
void filter(In<T, 2> values, In<T, 2> weights, Table table, bool reverse, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, weights);
  require(static_cast<int64_t>(values.shape(0)) == lattice.total && out.shape(0) == values.shape(0) &&
              out.shape(1) == values.shape(1),
          "values: expected one row for each point the lattice was built from");
  const Working working;
  lattice.verify(threads, filter_reads(static_cast<int64_t>(values.shape(1))));
  wish_for_huge_pages(out.data(), out.size() * sizeof(T));
  filter_functions<T>().filter(lattice, weights.data(), values.data(), static_cast<int64_t>(values.shape(1)),
                               reverse, out.data(), threads);
}

template <class T>
void weight_gradient(In<T, 2> x, In<T, 2> g, In<T, 2> weights, Table table, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, weights);
  require(static_cast<int64_t>(x.shape(0)) == lattice.total && g.shape(0) == x.shape(0) &&
              g.shape(1) == x.shape(1) && out.shape(0) == weights.shape(0) &&
              out.shape(1) == weights.shape(1),
          "values: expected one row for each point the lattice was built from");
  const Working working;
  lattice.verify(threads, sweep_reads);
  filter_functions<T>().weight_gradient(lattice, weights.data(), x.data(), g.data(),
                                        static_cast<int64_t>(x.shape(1)), out.data(), threads);
}

// Converts the gradient of the weights (sorted order) to the gradient of the features (the points' own
// order).
template <class T>
void feature_gradient(In<T, 2> grad_weights, Table table, int threads, Out<T, 2> out) {
  const Lattice lattice = decode<T>(table, grad_weights);
  require(
      static_cast<int64_t>(out.shape(0)) == lattice.total && static_cast<int>(out.shape(1)) == lattice.dim,
      "out: expected [points, d]");
  const Working working;
  lattice.verify(threads, Lattice::ranks);
  const int corners = lattice.dim + 1;
  const auto& functions = embed_functions<T>();
  if (lattice.points < lattice.total) std::fill(out.data(), out.data() + lattice.total * lattice.dim, T(0));
  parallel_ranges(lattice.simplices, 1024, threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t p = lattice.simplex_start[s]; p < lattice.simplex_start[s + 1]; ++p)
        functions.feature_gradient(grad_weights.data() + p * corners, lattice.simplex_rank + s * corners,
                                   lattice.dim, lattice.scale,
                                   out.data() + int64_t{lattice.order[p]} * lattice.dim);
  });
}

// A kernel and the arrays it points to.
struct BoundKernel {
  Kernel kernel;
  std::optional<In<float, 2>> weights;
  std::optional<Table> table;
  std::optional<In<float, 1>> pre, post;

  using Scale = std::optional<In<float, 1>>;
  static BoundKernel of_lattice(In<float, 2> weights, Table table, Scale pre, Scale post) {
    BoundKernel bound{{}, weights, table, pre, post};
    bound.kernel.is_lattice = true;
    bound.kernel.lattice = decode<float>(table, weights);
    bound.kernel.weights = weights.data();
    return bound.scaled();
  }
  static BoundKernel separable(std::array<double, 3> theta, Scale pre, Scale post) {
    BoundKernel bound{{}, std::nullopt, std::nullopt, pre, post};
    require(theta[0] > 0 && theta[1] > 0 && theta[2] > 0, "theta: expected three positive numbers");
    std::copy(theta.begin(), theta.end(), bound.kernel.theta);
    return bound.scaled();
  }

 private:
  BoundKernel scaled() {
    kernel.pre = data_of(pre);
    kernel.post = data_of(post);
    return *this;
  }
};

// A problem and the arrays it points to.
struct BoundProblem {
  Problem problem;
  std::vector<BoundKernel> bound;
  std::vector<Kernel> kernels;
  In<float, 3> transform;
  std::optional<In<uint8_t, 2>> mask;
  std::optional<In<int32_t, 2>> clamp;

  BoundProblem(std::vector<BoundKernel> kernels_, In<float, 3> transform_, int64_t batch,
               std::array<int64_t, 3> grid, std::optional<In<uint8_t, 2>> mask_,
               std::optional<In<int32_t, 2>> clamp_, int iterations, float damping, float in_play,
               int threads)
      : bound(std::move(kernels_)), transform(transform_), mask(mask_), clamp(clamp_) {
    problem.batch = batch;
    problem.labels = static_cast<int64_t>(transform.shape(1));
    require(batch >= 0 && grid[0] >= 0 && grid[1] >= 0 && grid[2] >= 0,
            "batch, grid: expected no negative numbers");
    require(problem.labels >= 1 && problem.labels <= 1024, "transform: expected 1 to 1024 labels");
    require(transform.shape(0) == bound.size() && transform.shape(2) == transform.shape(1),
            "transform: expected [kernels, L, L]");
    problem.pixels = 1;
    for (size_t i = 0; i < 3; ++i) {
      problem.grid[i] = grid[i];
      require(grid[i] <= INT32_MAX && problem.pixels * grid[i] <= INT32_MAX,
              "grid: more than 2^31 pixels; tile the picture");
      problem.pixels *= grid[i];
    }
    require(batch <= INT32_MAX && problem.total() <= INT32_MAX,
            "batch: more than 2^31 pixels; split the batch");
    const auto per_pixel = [&](const auto& array) {
      return !array || static_cast<int64_t>(array->shape(0)) == problem.total();
    };
    for (const BoundKernel& own : bound) {
      require(!own.kernel.is_lattice || own.kernel.lattice.total == problem.total(),
              "kernels: a lattice of other points than the unary's pixels");
      require(per_pixel(own.pre) && per_pixel(own.post), "pre, post: expected one number per pixel");
      kernels.push_back(own.kernel);
    }
    const auto fits = [&](const auto& array) {
      return !array || (static_cast<int64_t>(array->shape(0)) == batch &&
                        static_cast<int64_t>(array->shape(1)) == problem.pixels);
    };
    require(fits(mask), "mask: expected [B, N]");
    require(fits(clamp), "clamp: expected [B, N]");
    problem.kernels = kernels.data();
    problem.kernel_count = static_cast<int>(kernels.size());
    problem.transform = transform.data();
    problem.mask = data_of(mask);
    problem.clamp = data_of(clamp);
    problem.iterations = iterations;
    problem.damping = damping;
    problem.in_play = in_play;
    problem.threads = threads;
  }
  BoundProblem(const BoundProblem&) = delete;

  void verify() const {
    for (const Kernel& kernel : kernels)
      if (kernel.is_lattice) kernel.lattice.verify(problem.threads, sweep_reads);
  }

  // Whether the shape is [batch, labels, pixels], as required of all planes.
  template <class T>
  bool fits(const nb::ndarray<T, nb::ndim<3>, nb::c_contig, nb::device::cpu>& planes) const {
    return static_cast<int64_t>(planes.shape(0)) == problem.batch &&
           static_cast<int64_t>(planes.shape(1)) == problem.labels &&
           static_cast<int64_t>(planes.shape(2)) == problem.pixels;
  }
  template <class Planes>
  bool fits(const std::optional<Planes>& planes) const {
    return !planes || fits(*planes);
  }
};

// Where the gradients of a kernel are accumulated, zero-filled by the caller. Gradients whose array is
// missing are not computed.
struct BoundGradient {
  std::optional<Out<float, 2>> weights;
  std::optional<Out<double, 1>> theta;
  std::optional<Out<float, 1>> pre, post;

  KernelGradient of(const Kernel& kernel, int64_t total) const {
    const auto room = [](const auto& array, int64_t numbers) {
      return !array || static_cast<int64_t>(array->size()) >= numbers;
    };
    const int64_t corners = kernel.is_lattice ? kernel.lattice.points * (kernel.lattice.dim + 1) : 0;
    require(room(weights, corners) && room(theta, kernel.is_lattice ? 0 : 3) && room(pre, total) &&
                room(post, total),
            "grads: too few numbers for this kernel");
    return {data_of(weights), data_of(theta), data_of(pre), data_of(post)};
  }
};

using Marginals = Out<float, 1>;

// Memory for marginals, taken from the retained region: with one set per iteration, it is the largest
// allocation of a training step that would otherwise have to be cleared.
Numpy<float, 1> rows(int64_t numbers) {
  return to_numpy<float, 1>(Array<float>(static_cast<size_t>(numbers)), {numbers});
}

void require_size(const Marginals& marginals, const Problem& problem) {
  require(static_cast<int64_t>(marginals.size()) == problem.iterations * problem.plane(),
          "marginals: expected iterations * (pixels * labels + row_room) numbers");
}

void require_finite(bool finite) {
  if (!finite)
    throw std::invalid_argument(
        "unary: expected finite logits, got NaN or infinity; replace infinite logits by large finite ones, "
        "for instance unary.clamp(-50, 50), and look for the NaN in the network");
}

void mean_field(const BoundProblem& bound, In<float, 3> unary, std::optional<In<float, 3>> initial,
                Out<float, 3> logits, std::optional<Marginals> marginals) {
  if (marginals) require_size(*marginals, bound.problem);
  require(bound.fits(unary) && bound.fits(logits) && bound.fits(initial),
          "unary, initial, logits: expected [B, L, N] of the problem");
  bool finite;
  {
    const Working working;
    bound.verify();
    wish_for_huge_pages(logits.data(), logits.size() * sizeof(float));
    finite = mean_field_functions().forward(bound.problem, unary.data(), data_of(initial),
                                            {.logits = logits.data()}, data_of(marginals));
  }
  require_finite(finite);
}

void mean_field_labels(const BoundProblem& bound, In<float, 3> unary, Out<int16_t, 2> labels) {
  require(bound.fits(unary) && static_cast<int64_t>(labels.shape(0)) == bound.problem.batch &&
              static_cast<int64_t>(labels.shape(1)) == bound.problem.pixels,
          "unary, labels: expected [B, L, N] and [B, N] of the problem");
  bool finite;
  {
    const Working working;
    bound.verify();
    finite = mean_field_functions().forward(bound.problem, unary.data(), nullptr, {.labels = labels.data()},
                                            nullptr);
  }
  require_finite(finite);
}

void mean_field_backward(const BoundProblem& bound, In<float, 3> grad_logits, Marginals marginals,
                         Out<float, 3> grad_unary, std::optional<Out<float, 3>> grad_initial,
                         Out<float, 3> grad_transform, std::vector<BoundGradient> grads) {
  const Problem& problem = bound.problem;
  require_size(marginals, problem);
  require(
      bound.fits(grad_logits) && bound.fits(grad_unary) && bound.fits(grad_initial) &&
          grad_transform.size() == bound.transform.size(),
      "grad_logits, grad_unary, grad_initial, grad_transform: expected the shapes of what they belong to");
  require(grads.size() == bound.kernels.size(), "grads: expected one KernelGradient a kernel");
  std::vector<KernelGradient> out;
  for (size_t m = 0; m < grads.size(); ++m) out.push_back(grads[m].of(bound.kernels[m], problem.total()));
  const Working working;
  bound.verify();
  wish_for_huge_pages(grad_unary.data(), grad_unary.size() * sizeof(float));
  mean_field_functions().backward(problem, grad_logits.data(), marginals.data(), grad_unary.data(),
                                  data_of(grad_initial), grad_transform.data(), out.data());
}

void update(const BoundProblem& bound, In<float, 2> unary, In<float, 2> marginals, bool normalize,
            Out<float, 2> out) {
  const Problem& problem = bound.problem;
  for (const Kernel& kernel : bound.kernels) require(kernel.is_lattice, "kernels: expected lattices");
  const auto fits = [&](const auto& rows) {
    return static_cast<int64_t>(rows.shape(0)) == problem.total() &&
           static_cast<int64_t>(rows.shape(1)) == problem.labels;
  };
  require(fits(unary) && fits(marginals) && fits(out),
          "unary, marginals, out: expected [B * N, L] of the problem");
  require(normalize || out.data() != marginals.data(),
          "out: expected other memory than that of the marginals");
  const Working working;
  bound.verify();
  mean_field_functions().update(problem, unary.data(), marginals.data(), normalize, out.data());
}

void define_mean_field(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<BoundKernel>(m, "Kernel", "One Gaussian kernel of a problem; scales hold one number per pixel.")
      .def_static("lattice", &BoundKernel::of_lattice, "weights"_a, "table"_a, "pre"_a = none,
                  "post"_a = none)
      .def_static("separable", &BoundKernel::separable, "theta"_a, "pre"_a = none, "post"_a = none);
  nb::class_<BoundGradient>(m, "KernelGradient",
                            "Zeros to which the gradients of one kernel are added; None: not wanted.")
      .def(
          "__init__",
          [](BoundGradient* self, std::optional<Out<float, 2>> weights, std::optional<Out<double, 1>> theta,
             std::optional<Out<float, 1>> pre,
             std::optional<Out<float, 1>> post) { new (self) BoundGradient{weights, theta, pre, post}; },
          nb::kw_only(), "weights"_a = none, "theta"_a = none, "pre"_a = none, "post"_a = none);
  nb::class_<BoundProblem>(
      m, "Problem",
      "One inference: L labels of B pictures of a grid, in the symbols of native/mean_field.hpp.")
      .def(nb::init<std::vector<BoundKernel>, In<float, 3>, int64_t, std::array<int64_t, 3>,
                    std::optional<In<uint8_t, 2>>, std::optional<In<int32_t, 2>>, int, float, float, int>(),
           nb::kw_only(), "kernels"_a, "transform"_a, "batch"_a, "grid"_a, "mask"_a = none, "clamp"_a = none,
           "iterations"_a, "damping"_a, "in_play"_a = 0.f, "threads"_a);
  m.attr("row_room") = Problem::room;
  m.def("rows", &rows, "numbers"_a);
  m.def("mean_field", &mean_field, "problem"_a, "unary"_a, "initial"_a.none(), "logits"_a,
        "marginals"_a.none());
  m.def("mean_field_labels", &mean_field_labels, "problem"_a, "unary"_a, "labels"_a);
  m.def("mean_field_backward", &mean_field_backward, "problem"_a, "grad_logits"_a, "marginals"_a,
        "grad_unary"_a, "grad_initial"_a.none(), "grad_transform"_a, "grads"_a);
  m.def("update", &update, "problem"_a, "unary"_a, "marginals"_a, "normalize"_a, "out"_a);
}

template <class T>
void define(nb::module_& m) {
  m.def("build", &build_lattice<T>, "features"_a, "mask"_a.none(), "scale"_a, "rings"_a, "ring_support"_a,
        "together"_a, "threads"_a);
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
  nb::class_<TableShape>(m, "TableShape", "What the header of a lattice's table says (native/lattice.hpp).")
      .def(
          "__init__",
          [](TableShape* self, const std::vector<int32_t>& header) {
            new (self) TableShape(TableShape::of(header.data(), static_cast<int64_t>(header.size())));
          },
          "header"_a)
      .def_ro("total", &TableShape::total, "points, masked ones included")
      .def_ro("points", &TableShape::points)
      .def_ro("simplices", &TableShape::simplices)
      .def_ro("vertices", &TableShape::vertices)
      .def_ro("dim", &TableShape::dim)
      .def_ro("together", &TableShape::together, "axes of a group, 1 for one after the other")
      .def_prop_ro("parts", &TableShape::parts,
                   "words of the header, order, simplex_start, simplex_vertex, simplex_rank, neighbour, ...");
  m.attr("header_words") = TableShape::header_words;
  m.def("verify", &verify, "table"_a, "points"_a, "corners"_a);
  define_mean_field(m);
  m.def("release_kept_memory", &release_kept_memory);
  m.def("poison_memory", &poison_memory, "on"_a);
  m.def("refuse_memory", &refuse_memory, "count"_a);
  m.def("memory_in_use", &memory_in_use);
  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", &instruction_set);
  m.def("use_instruction_set", &use_instruction_set, "name"_a);
}
