// SPDX-License-Identifier: MIT
// Mean field over unusual problems: one to a hundred labels, any kernels, masks, clamps. Forward and backward
// must agree to the last bit between one thread and several, and masked pixels must keep their start.
#include <algorithm>

#include "fuzz.hpp"

namespace crfrnn::fuzz {
namespace {

struct KernelData {
  BuildResult<float> lattice;
  Exact<float> pre{0}, post{0};
};

struct Outputs {
  Exact<float> logits, marginals, grad_unary, grad_initial, grad_transform;
  std::vector<Exact<float>> weights, pre, post;
  std::vector<Exact<double>> theta;

  explicit Outputs(const Problem& p)
      : logits(p.batch * p.labels * p.pixels, -77.f), marginals(p.iterations * p.plane()),
        grad_unary(p.batch * p.labels * p.pixels, -77.f), grad_initial(p.batch * p.labels * p.pixels, -77.f),
        grad_transform(p.kernel_count * p.labels * p.labels) {
    for (int m = 0; m < p.kernel_count; ++m) {
      const Kernel& kernel = p.kernels[m];
      weights.emplace_back(kernel.is_lattice ? kernel.lattice.points * (kernel.lattice.dim + 1) : 0);
      pre.emplace_back(p.total());
      post.emplace_back(p.total());
      theta.emplace_back(3);
    }
  }
  void check_same(const Outputs& other) const {
    check(logits.same_bits(other.logits), "mean field: any number of threads gives the same logits");
    check(marginals.same_bits(other.marginals), "mean field: any number of threads gives the same marginals");
    check(grad_unary.same_bits(other.grad_unary) && grad_initial.same_bits(other.grad_initial),
          "backward: any number of threads gives the same gradient of unary and initial");
    check(grad_transform.same_bits(other.grad_transform),
          "backward: any number of threads gives the same gradient of the transform");
    for (size_t m = 0; m < pre.size(); ++m)
      check(weights[m].same_bits(other.weights[m]) && pre[m].same_bits(other.pre[m]) &&
                post[m].same_bits(other.post[m]) && theta[m].same_bits(other.theta[m]),
            "backward: any number of threads gives the same gradients of a kernel");
  }
  void check_finite() const {
    const auto finite = [](const auto& values, const char* what) {
      for (size_t i = 0; i < values.size; ++i) check(std::isfinite(values.data[i]), what);
    };
    finite(grad_unary, "backward: a finite gradient of the unary");
    finite(grad_transform, "backward: a finite gradient of the transform");
    for (size_t m = 0; m < pre.size(); ++m) {
      finite(weights[m], "backward: finite gradients of the barycentric weights");
      finite(pre[m], "backward: a finite gradient of pre");
      finite(post[m], "backward: a finite gradient of post");
      finite(theta[m], "backward: a finite gradient of theta");
    }
  }
};

Exact<float> transform_of(Random& random, int64_t kernels, int64_t labels) {
  auto a = normals<float>(random, kernels * labels * labels, 0.5);
  const int64_t shape = random.below(3);  // full, diagonal, zero
  for (int64_t i = 0; i < static_cast<int64_t>(a.size); ++i)
    if (shape == 2 || (shape == 1 && i / labels % labels != i % labels)) a[i] = 0;
  return a;
}

// A problem and all arrays it points to.
struct Case {
  Problem p;
  bool wide, keep, started;
  Exact<uint8_t> mask{0};
  Exact<int32_t> clamp{0};
  std::vector<KernelData> data;
  std::vector<Kernel> kernels;
  Exact<float> transform{0}, unary{0}, initial{0}, grad{0};
  int several;  // number of threads

  Case(Random& random, MeanFieldPart part) : part_(part) {
    choose_shape(random);
    choose_known(random);
    data.resize(static_cast<size_t>(random.below(random.small ? 3 : 4)));
    kernels.resize(data.size());
    current_case() += " mean_field L=" + std::to_string(p.labels) + " B=" + std::to_string(p.batch) +
                      " grid=" + std::to_string(p.grid[0]) + "x" + std::to_string(p.grid[1]) + "x" +
                      std::to_string(p.grid[2]) + " T=" + std::to_string(p.iterations) +
                      (keep ? " kept" : "") + (started ? " initial" : "") + (p.mask ? " mask" : "") +
                      (p.clamp ? " clamp" : "") + (p.damping != 1 ? " damped" : "") +
                      (p.in_play > 0 ? " in play" : "") + " kernels=";
    for (size_t m = 0; m < kernels.size(); ++m) choose_kernel(random, data[m], kernels[m]);
    current_case() += std::string(" ") + instruction_set();
    p.kernels = kernels.data();
    p.kernel_count = static_cast<int>(kernels.size());
    transform = transform_of(random, p.kernel_count, p.labels);
    p.transform = transform.get();
    unary = normals<float>(random, size(), std::pow(10.0, static_cast<double>(random.between(-1, 3))));
    initial = normals<float>(random, size());
    grad = normals<float>(random, size());
    several = random.several();
  }
  Case(const Case&) = delete;

  int64_t size() const { return p.batch * p.labels * p.pixels; }
  // Whether number i of the planes belongs to a masked pixel.
  bool masked(int64_t i) const {
    return p.mask && !p.mask[i / (p.labels * p.pixels) * p.pixels + i % p.pixels];
  }
  const float* start() const { return started ? initial.get() : nullptr; }

  Outputs run(int threads) {
    p.threads = threads;
    Outputs out(p);
    const bool finite = mean_field_functions().forward(p, unary.get(), start(), {.logits = out.logits.get()},
                                                       keep ? out.marginals.get() : nullptr);
    check(finite, "mean field: finite logits are taken");
    if (!keep) {
      check_labels(out.logits);
      return out;
    }
    std::vector<KernelGradient> gradients(kernels.size());
    for (size_t m = 0; m < gradients.size(); ++m) {
      const bool lattice = kernels[m].is_lattice;
      gradients[m] = {lattice ? out.weights[m].get() : nullptr, lattice ? nullptr : out.theta[m].get(),
                      kernels[m].pre ? out.pre[m].get() : nullptr,
                      kernels[m].post ? out.post[m].get() : nullptr};
    }
    mean_field_functions().backward(p, grad.get(), out.marginals.get(), out.grad_unary.get(),
                                    started ? out.grad_initial.get() : nullptr, out.grad_transform.get(),
                                    gradients.data());
    return out;
  }

  // The labels are those of the largest logits; a masked pixel's are not defined.
  void check_labels(const Exact<float>& logits) const {
    Exact<int16_t> labels(p.total(), -77);
    mean_field_functions().forward(p, unary.get(), start(), {.labels = labels.get()}, nullptr);
    for (int64_t i = 0; i < p.total(); ++i) {
      if (p.mask && !p.mask[i]) continue;
      const int64_t first = i / p.pixels * p.labels * p.pixels + i % p.pixels;
      int64_t best = 0;
      for (int64_t l = 1; l < p.labels; ++l)
        if (logits[first + l * p.pixels] > logits[first + best * p.pixels]) best = l;
      check(labels[i] == best, "mean field: the label of the largest logit");
    }
  }

 private:
  const MeanFieldPart part_;

  void choose_shape(Random& random) {
    wide = random.chance(random.small ? 16 : 4);  // room for Gaussians that use a coarser grid
    if (random.small) {
      choose_small_shape(random);
    } else {
      p.batch = random.between(1, 3);
      p.labels = random.chance(2) ? random.between(1, 22) : random.between(1, 100);
      const int axes = static_cast<int>(random.between(1, 3));
      for (int i = 3 - axes; i < 3; ++i) p.grid[i] = random.between(1, axes == 1 ? 150 : axes == 2 ? 14 : 6);
      if (wide) {
        p.batch = 1;
        p.labels = random.between(1, 22);
        p.grid[0] = random.between(1, 2);
        p.grid[1] = random.between(10, 60);
        p.grid[2] = random.between(10, 90);
      }
    }
    const bool all = part_ == MeanFieldPart::all;
    p.pixels = p.grid[0] * p.grid[1] * p.grid[2];
    p.iterations = static_cast<int>(all ? random.below(4) : random.between(0, 2));
    p.damping = random.chance(3) ? 0.5f : 1.f;
    keep = p.iterations > 0 &&
           (part_ == MeanFieldPart::gradient || (part_ != MeanFieldPart::inference && random.chance(2)));
    p.in_play = part_ == MeanFieldPart::in_play || random.chance(3)
                    ? static_cast<float>(0.5 * random.uniform())
                    : 0.f;
    started = random.chance(3);
  }

  // Up to about 128 numbers: many labels or up to 40 pixels, since every kernel of a lattice builds one.
  void choose_small_shape(Random& random) {
    const bool narrow = part_ == MeanFieldPart::narrow;
    p.batch = wide ? 1 : random.between(1, 2);
    p.labels = random.between(1, narrow ? 8 : wide ? 4 : random.chance(2) ? 22 : 100);
    const int64_t room = 128 / p.labels;
    int64_t left = wide ? 256 / p.labels : (room < 40 ? room : 40) / p.batch;
    const int axes = static_cast<int>(random.between(1, 3));
    for (int i = 2; i >= 3 - axes; --i) {
      const int64_t most = i == 0 ? 4 : axes == 1 ? 64 : wide ? 32 : 16;
      p.grid[i] = random.between(1, left < 2 ? 2 : left < most ? left : most);
      left /= p.grid[i];
    }
  }

  // Chooses mask and clamp.
  void choose_known(Random& random) {
    const int64_t total = p.total();
    mask = Exact<uint8_t>(total, 1);
    clamp = Exact<int32_t>(total, -1);
    if (random.chance(3)) {
      const bool all = random.chance(6);
      for (int64_t i = 0; i < total; ++i) mask[i] = all || random.chance(3) ? 0 : 1;
      p.mask = mask.get();
    }
    if (random.chance(3)) {
      for (int64_t i = 0; i < total; ++i)
        clamp[i] = random.chance(3) ? static_cast<int32_t>(random.below(p.labels)) : -1;
      p.clamp = clamp.get();
    }
  }

  void choose_kernel(Random& random, KernelData& own, Kernel& kernel) {
    const int64_t total = p.total();
    if (random.chance(2)) {
      const bool many = random.chance(8) && total < (random.small ? 16 : 200);
      const int dim = static_cast<int>(random.sized(1, many ? 20 : 6, many ? 20 : 5));
      Exact<float> features(total * dim);
      fill_features(random, static_cast<Cloud>(random.below(static_cast<int64_t>(Cloud::tiny))), dim,
                    features);
      own.lattice = build<float>(features.get(), p.mask, p.batch, p.pixels, dim, {});
      check(own.lattice.status == BuildStatus::ok, "build: ordinary features are taken");
      kernel.is_lattice = true;
      kernel.lattice =
          Lattice::decode(own.lattice.table.data(), static_cast<int64_t>(own.lattice.table.size()));
      kernel.weights = own.lattice.weights.data();
    } else {
      for (double& theta : kernel.theta)
        theta = wide ? 2.5 + 15 * random.uniform() : std::pow(10.0, 4 * random.uniform() - 2);
    }
    current_case() += kernel.is_lattice ? "l" + std::to_string(kernel.lattice.dim) : std::string("s");
    own.pre = normals<float>(random, total, 0.3);
    own.post = normals<float>(random, total, 0.3);
    kernel.pre = random.chance(2) ? own.pre.get() : nullptr;
    kernel.post = random.chance(2) ? own.post.get() : nullptr;
  }
};

// Checks one iteration over rows: any number of threads, in place or not.
void check_update(Random& random, Case& c) {
  bool lattices = !c.p.mask && c.p.batch == 1;
  for (const Kernel& kernel : c.kernels) lattices = lattices && kernel.is_lattice;
  if (!lattices) return;
  const int64_t size = c.size();
  const auto rows = normals<float>(random, size);
  Exact<float> x(size), again(size), q(size), in_place(size);
  std::copy(rows.get(), rows.get() + size, in_place.get());
  const auto update = [&](int threads, const float* marginals, bool normalize, Exact<float>& out) {
    c.p.threads = threads;
    mean_field_functions().update(c.p, c.unary.get(), marginals, normalize, out.get());
  };
  update(1, rows.get(), false, x);
  update(c.several, rows.get(), false, again);
  update(1, rows.get(), true, q);
  update(c.several, in_place.get(), true, in_place);
  check(x.same_bits(again) && q.same_bits(in_place),
        "update: any number of threads, and in place, gives the same");
  for (int64_t i = 0; i < size; ++i)
    check(std::isfinite(x[i]) && q[i] >= 0 && q[i] <= 1.0001f, "update: finite x, marginals");
}

// Checks that NaN is detected, except under the mask.
void check_nan(Random& random, Case& c) {
  const int64_t size = c.size();
  if (!size) return;
  const int64_t at = random.below(size);
  c.unary[at] =
      random.chance(2) ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  const bool held = c.masked(at);
  Exact<float> logits(size);
  check(
      mean_field_functions().forward(c.p, c.unary.get(), nullptr, {.logits = logits.get()}, nullptr) == held,
      "mean field: NaN is seen, except under the mask");
  for (int64_t i = 0; i < size && held; ++i)
    check(i == at || std::isfinite(logits[i]), "mean field: NaN under the mask stays there");
}

}  // namespace

void mean_field_case(Random& random, MeanFieldPart part) {
  Case c(random, part);
  const Outputs one = c.run(1);
  one.check_same(c.run(c.several));
  if (c.keep) one.check_finite();
  if (random.checks()) without_memory(random, [&] { c.run(c.several); });
  const float* start = c.started ? c.initial.get() : c.unary.get();
  for (int64_t i = 0; i < c.size(); ++i) {
    check(std::isfinite(one.logits[i]), "mean field: finite logits");
    if (c.masked(i) || c.p.iterations == 0)
      check(one.logits[i] == start[i], "mean field: what is masked, or zero iterations, changes nothing");
  }
  if (random.checks()) check_update(random, c);
  if (random.checks()) check_nan(random, c);
}

}  // namespace crfrnn::fuzz
