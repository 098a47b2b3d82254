// SPDX-License-Identifier: MIT
// A wide Gaussian along x and y, computed on a coarser grid: K ≈ D Dᵀ, where Dᵀ maps the pixels to every
// step-th pixel with a Gaussian of bandwidth a = θ/√2, and D maps them back. Summed over the coarse pixels c,
// the product is again the wide Gaussian,
//   Σ_c exp(-(i - c)²/2a²) exp(-(c - j)²/2a²) = exp(-(i - j)²/2θ²) Σ_c exp(-(c - (i + j)/2)²/a²),
// and the last sum equals a√π/step up to a relative ripple of 2 exp(-π²a²/step²), which is below 3e-5 for
// step <= θ/1.5. The cost therefore does not grow with θ, and at θ = 3 it is half that of the direct sums.
//
// Rows of pixels are reduced one at a time to coarse columns, and these to coarse rows. Each coarse row is
// then expanded to all columns, and these to the rows of pixels. Pixels at the same position within a step,
// their *phase*, are stored in one line, so that along every axis the sums run over flat arrays.
#pragma once

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr double cut = 4.6;  // in bandwidths; all weights beyond it together are below 4.3e-6 of the sum

// One axis: its step, and the weights between a coarse pixel and the pixels of each phase.
struct CoarseAxis {
  static constexpr int most_steps = 32;

  struct Phase {
    const float* weights;
    int low, count;  // from `low` steps on, relative to the coarse pixel
  };

  int step, reach, margin;  // margin: `reach` in whole steps, plus one for the phase
  Buffer values;
  Phase phase[most_steps];

  // 1 if the direct sums are preferable: for a narrow Gaussian, or one wider than the axis.
  static int step_of(double theta, int64_t size) {
    if (theta < 3 || reach_of(theta) > static_cast<double>(size)) return 1;
    return static_cast<int>(theta / 1.5 < most_steps ? theta / 1.5 : most_steps);
  }
  static double reach_of(double theta) { return cut * theta / std::sqrt(2.0); }

  CoarseAxis(double theta, int64_t size)
      : step(step_of(theta, size)), reach(static_cast<int>(reach_of(theta))), margin(reach / step + 2),
        values(sizeof(float) * static_cast<size_t>(2 * reach + 1)) {
    // applied in both directions, so that the peak of the product is 1
    const double gain = std::sqrt(step / (theta * std::sqrt(0.5 * 3.141592653589793)));
    float* at = values.as<float>();
    for (int p = 0; p < step; ++p) {
      const int low = -((reach + p) / step), high = (reach - p) / step;
      phase[p] = {at, low, high - low + 1};
      for (int k = low; k <= high; ++k) {
        const double r = static_cast<double>(step) * k + p;
        *at++ = static_cast<float>(gain * std::exp(-r * r / (theta * theta)));
      }
    }
  }
  // The same weights relative to a pixel of phase p: those of the mirrored phase.
  Phase back(int p) const {
    return p == 0 ? phase[0] : Phase{phase[step - p].weights, phase[step - p].low + 1, phase[step - p].count};
  }
  // The coarse pixels that pixels [begin, end) contribute to.
  int64_t first(int64_t begin) const {
    const int64_t least = begin - reach;
    return least < 0 ? -(-least / step) : (least + step - 1) / step;
  }
  int64_t last(int64_t end) const { return (end - 1 + reach) / step; }
};

struct Coarse {
  using P = Pack<float>;
  // sums computed together: consecutive ones, and side by side
  static constexpr int outputs = 4, packs = 2;
  // slack: padding after each line
  static constexpr int64_t lanes = P::lanes, wide = outputs * packs * lanes, slack = 2 * wide;

  const Problem& problem;
  int64_t labels;
  int threads;

  explicit Coarse(const Problem& p) : problem(p), labels(p.labels), threads(p.threads < 1 ? 1 : p.threads) {}

  static bool serves(const Problem& p, const double* theta) {
    return CoarseAxis::step_of(theta[1], p.grid[1]) > 1 && CoarseAxis::step_of(theta[2], p.grid[2]) > 1;
  }

  int64_t line_of(int64_t pixels) const { return (pixels * labels + slack + lanes - 1) / lanes * lanes; }

  // The lines of one worker for a tile with the given number of columns: their lengths and their number.
  struct Lines {
    int64_t columns, phase, coarse, fine, rows, coarse_rows;  // of the two rings: number of lines

    Lines(const Coarse& c, const CoarseAxis& x, const CoarseAxis& y, int64_t width)
        : columns(width / x.step + 2 * x.margin + 2), phase(c.line_of(columns + 2 * x.margin)),
          coarse(c.line_of(columns)), fine(c.line_of(width)), rows(y.step * (outputs + 2 * y.margin)),
          coarse_rows(2 * (outputs + y.margin)) {}
    int64_t numbers(const CoarseAxis& x) const {
      return 2 * x.step * phase + (rows + outputs) * coarse + coarse_rows * fine;
    }
    int64_t longest() const { return coarse > fine ? coarse : fine; }
  };

  // Along x and y, one tile of columns at a time; `source` as in Separable::plane.
  template <class Source>
  void plane(const Source& source, const CoarseAxis& x, const CoarseAxis& y, float* out) const {
    const int64_t n = problem.grid[2], rows = problem.grid[1], planes = problem.batch * problem.grid[0];
    const int64_t tiles = tile_count(x, planes);
    const Lines lines(*this, x, y, (n + tiles - 1) / tiles);
    const int64_t own = lines.numbers(x);
    const Buffer memory(static_cast<size_t>(threads * own + lines.longest()) * sizeof(float));
    const Buffer places(static_cast<size_t>(threads * lines.rows) * sizeof(float*));
    float* nothing = memory.as<float>() + threads * own;
    for (int64_t i = 0; i < lines.longest(); ++i) nothing[i] = 0.f;
    parallel_for(planes * tiles, threads, [&](int64_t task, int worker) {
      const int64_t left = n * (task % tiles) / tiles, right = n * (task % tiles + 1) / tiles;
      Tile<Source>(*this, source, x, y, lines, memory.as<float>() + worker * own,
                   places.as<const float*>() + worker * lines.rows, nothing, task / tiles * rows, left, right)
          .run(out);
    });
  }

  // Tiles are wide enough to limit the work that two neighbours duplicate, and there is at least one per
  // thread.
  int64_t tile_count(const CoarseAxis& x, int64_t planes) const {
    const int64_t n = problem.grid[2], wide = 16 * x.reach > 256 ? 16 * x.reach : 256, least = 4 * x.reach;
    const int64_t wanted = planes > 0 ? (threads + planes - 1) / planes : 1, most = n > least ? n / least : 1;
    const int64_t count = (n + wide - 1) / wide > wanted ? (n + wide - 1) / wide : wanted;
    return count < most ? count : most;
  }

  // Processes some columns of one plane.
  template <class Source>
  struct Tile {
    const Source& source;
    const CoarseAxis &x, &y;
    const Lines& lines;
    const int64_t labels, n, rows, base, left, right;  // base: the first row of the plane
    const int64_t begin, count;                        // coarse columns
    float *phases, *back;  // the pixels of one row by phase: input of the coarse columns; expanded from them
    // rows in coarse columns (a ring); coarse rows; coarse rows expanded to all columns (a ring)
    float *kept, *between, *finished;
    const float **places, *nothing;  // the lines of a sum; a line of zeros

    Tile(const Coarse& c, const Source& s, const CoarseAxis& x_, const CoarseAxis& y_, const Lines& l,
         float* memory, const float** places_, const float* nothing_, int64_t base_, int64_t left_,
         int64_t right_)
        : source(s), x(x_), y(y_), lines(l), labels(c.labels), n(c.problem.grid[2]), rows(c.problem.grid[1]),
          base(base_), left(left_), right(right_), begin(x.first(left)), count(x.last(right) - begin + 1),
          phases(memory), back(phases + x.step * lines.phase), kept(back + x.step * lines.phase),
          between(kept + lines.rows * lines.coarse), finished(between + outputs * lines.coarse),
          places(places_), nothing(nothing_) {}

    void run(float* out) const {
      for (int64_t i = 0; i < x.step * lines.phase; ++i) phases[i] = 0.f;
      const int64_t end = y.last(rows) + 1;
      int64_t ready = 0, made = y.first(0);
      for (int64_t at = 0; at * y.step < rows; at += outputs) {
        check_stop();
        for (; made < end && made < at + outputs + y.margin; made += outputs) {
          for (; ready < rows && ready <= (made + outputs - 1) * y.step + y.reach; ++ready)
            to_coarse_columns(ready);
          to_coarse_rows(made);
          for (int64_t c = made; c < made + outputs && c < end; ++c)
            to_all_columns(between + (c - made) * lines.coarse, ring(c));
        }
        to_all_rows(at, made < end ? made : end, out);
      }
    }

    float* ring(int64_t coarse_row) const {
      const int64_t size = lines.coarse_rows;
      return finished + (coarse_row % size + size) % size * lines.fine;
    }

    void to_coarse_columns(int64_t row) const {
      const int64_t from = begin - x.margin, until = begin + count + x.margin;
      const int64_t low = from > 0 ? from * x.step : 0, high = until * x.step < n ? until * x.step : n;
      int64_t place = low / x.step - from;
      int p = static_cast<int>(low % x.step);
      for (int64_t i = low; i < high; ++i) {
        source((base + row) * n + i, phases + p * lines.phase + place * labels);
        if (++p == x.step) p = 0, ++place;
      }
      for (int q = 0; q < x.step; ++q)  // clears what the last row wrote past its end
        for (int64_t b = 0; b < 2 * lanes; b += lanes)
          P::zero().store(phases + q * lines.phase + (place + (q < p)) * labels + b);
      const int64_t below = (row + 1 < rows ? base + row + 1 : base) * n, length = count * labels;
      float* to = kept + row % lines.rows * lines.coarse;
      int64_t asked = low;
      for (int64_t c = 0; c < length; c += wide) {
        for (const int64_t last = low + (high - low) * (c + wide) / length; asked < last && asked < high;
             ++asked)
          source.ask(below + asked);
        P sum[outputs * packs];
        for (auto& s : sum) s = P::zero();
        for (int q = 0; q < x.step; ++q)
          along(x.phase[q], phases + q * lines.phase + (x.margin + x.phase[q].low) * labels + c, sum);
        for (int j = 0; j < outputs * packs; ++j) sum[j].store(to + c + j * lanes);
      }
    }

    // Computes coarse rows [first, first + outputs).
    void to_coarse_rows(int64_t first) const {
      const int64_t above = (first - y.margin) * y.step;
      for (int64_t i = 0; i < lines.rows; ++i)
        places[i] =
            above + i < 0 || above + i >= rows ? nothing : kept + (above + i) % lines.rows * lines.coarse;
      for (int64_t c = 0; c < count * labels; c += packs * lanes) {
        P sum[outputs][packs];
        clear(sum);
        for (int q = 0; q < y.step; ++q)
          across(y.phase[q], places + (y.margin + y.phase[q].low) * y.step + q, y.step, c, sum);
        for (int j = 0; j < outputs; ++j)
          for (int m = 0; m < packs; ++m) sum[j][m].store(between + j * lines.coarse + c + m * lanes);
      }
    }

    // Expands one coarse row: phase by phase, then reordered to pixels.
    void to_all_columns(const float* from, float* to) const {
      const int64_t low = left / x.step, length = ((right - 1) / x.step - low + 1) * labels;
      for (int q = 0; q < x.step; ++q) {
        const auto phase = x.back(q);
        const float* at = from + (low - begin + phase.low) * labels;
        for (int64_t c = 0; c < length; c += wide) {
          P sum[outputs * packs];
          for (auto& s : sum) s = P::zero();
          along(phase, at + c, sum);
          for (int j = 0; j < outputs * packs; ++j) sum[j].store(back + q * lines.phase + c + j * lanes);
        }
      }
      int64_t place = 0;
      int p = static_cast<int>(left % x.step);
      for (int64_t i = left; i < right; ++i) {
        for (int64_t b = 0; b < labels; b += lanes)
          P::load(back + p * lines.phase + place * labels + b).store(to + (i - left) * labels + b);
        if (++p == x.step) p = 0, ++place;
      }
    }

    // Computes rows [at, at + outputs) × step from the coarse rows before `until`.
    void to_all_rows(int64_t at, int64_t until, float* out) const {
      const int64_t length = (right - left) * labels, first = y.first(0);
      for (int q = 0; q < y.step; ++q) {
        const auto phase = y.back(q);
        for (int i = 0; i < phase.count + outputs - 1; ++i) {
          const int64_t row = at + phase.low + i;
          places[i] = row < first || row >= until ? nothing : ring(row);
        }
        for (int64_t c = 0; c < length; c += packs * lanes) {
          P sum[outputs][packs];
          clear(sum);
          across(phase, places, 1, c, sum);
          for (int64_t j = 0; j < outputs && (at + j) * y.step + q < rows; ++j)
            for (int m = 0; m < packs; ++m)
              sum[j][m].store(out + ((base + (at + j) * y.step + q) * n + left) * labels + c + m * lanes,
                              P::Lanes::first(length - c - m * lanes));
        }
      }
    }

    // Adds one phase to the sums of all numbers from `at` on.
    CRFRNN_INLINE void along(const CoarseAxis::Phase& phase, const float* at, P* sum) const {
      for (int k = 0; k < phase.count; ++k) {
        const P weight = P::set(phase.weights[k]);
        for (int j = 0; j < outputs * packs; ++j)
          sum[j] = P::fma(weight, P::load(at + k * labels + j * lanes), sum[j]);
      }
    }

    // Adds one phase to `outputs` sums, each one line further; line[i · apart] is the i-th of the lines they
    // share.
    static CRFRNN_INLINE void across(const CoarseAxis::Phase& phase, const float* const* line, int64_t apart,
                                     int64_t c, P (*sum)[packs]) {
      const auto add = [&]<int From, int Until>(int i) CRFRNN_INLINE_LAMBDA {
        const float* at = line[i * apart] + c;
        P value[packs];
        for (int m = 0; m < packs; ++m) value[m] = P::load(at + m * lanes);
        for (int j = From; j < Until; ++j) {
          const P weight = P::set(phase.weights[i - j]);
          for (int m = 0; m < packs; ++m) sum[j][m] = P::fma(weight, value[m], sum[j][m]);
        }
      };
      static_assert(outputs == 4);
      const int count = phase.count;  // at least 9: see step_of
      add.template operator()<0, 1>(0);
      add.template operator()<0, 2>(1);
      add.template operator()<0, 3>(2);
      for (int i = 3; i < count; ++i) add.template operator()<0, 4>(i);
      add.template operator()<1, 4>(count);
      add.template operator()<2, 4>(count + 1);
      add.template operator()<3, 4>(count + 2);
    }

    static CRFRNN_INLINE void clear(P (*sum)[packs]) {
      for (int j = 0; j < outputs; ++j)
        for (int m = 0; m < packs; ++m) sum[j][m] = P::zero();
    }
  };
};

}  // namespace crfrnn::CRFRNN_ISA
