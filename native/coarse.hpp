// SPDX-License-Identifier: MIT
// A wide Gaussian along x and y, computed on a coarser grid: K ≈ D Dᵀ, where Dᵀ maps the pixels to every
// step-th pixel with a Gaussian of bandwidth a = θ/√2, and D maps them back. Summed over the coarse pixels c,
// the product is again the wide Gaussian,
//   Σ_c exp(-(i - c)²/2a²) exp(-(c - j)²/2a²) = exp(-(i - j)²/2θ²) Σ_c exp(-(c - (i + j)/2)²/a²),
// and the last sum equals a√π/step up to a relative ripple of 2 exp(-π²a²/step²), which is below 3e-5 for
// step <= θ/1.5. The cost therefore does not grow with θ, and at θ = 3 it is half that of the direct sums.
//
// Rows of pixels are reduced one at a time to coarse columns, and these to coarse rows. Each coarse row is
// then expanded to all columns, and these to the rows of pixels. A pixel's *phase* is its position within a
// step. Along y the sums run over flat arrays. Along x they run pixel by pixel, one pack of the rows at a
// time: the coarse columns that a pixel contributes to, or that contribute to it, are a *window* that stays
// in registers.
#pragma once

#include <algorithm>
#include <utility>

#include "buffer.hpp"
#include "mean_field.hpp"
#include "parallel.hpp"
#include "prefetch.hpp"
#include "simd.hpp"

namespace crfrnn::CRFRNN_ISA {

constexpr double cut = 4.6;  // in bandwidths; all weights beyond it together are below 4.3e-6 of the sum

// One axis: its step, and the weights between a coarse pixel and the pixels of each phase.
struct CoarseAxis {
  // Sizes of a window that loops are compiled for; the largest suffices for every step that step_of returns.
  static constexpr int windows[] = {10, 12, 16}, most_window = 16;

  struct Phase {
    const float* weights;
    int low, count;  // from `low` steps on, relative to the coarse pixel
  };

  int step, reach, margin;  // margin: `reach` in whole steps, plus one for the phase
  int window;               // how many coarse pixels the pixels of one step need together
  int lowest, highest;      // from the first pixel of a step to them, in steps: -highest to -lowest
  Buffer values, phases, by_pixel;

  // 1 if the direct sums are preferable: for a narrow Gaussian, or one wider than the axis.
  static int step_of(double theta, int64_t size) {
    if (theta < 3 || reach_of(theta) > static_cast<double>(size)) return 1;
    return static_cast<int>(theta / 1.5);
  }
  static double reach_of(double theta) { return cut * theta / std::sqrt(2.0); }

  CoarseAxis(double theta, int64_t size)
      : step(step_of(theta, size)), reach(static_cast<int>(reach_of(theta))), margin(reach / step + 2),
        lowest(-((reach + step - 1) / step)), highest(reach / step),
        values(sizeof(float) * static_cast<size_t>(2 * reach + 1)),
        phases(sizeof(Phase) * static_cast<size_t>(step)),
        by_pixel(sizeof(float) * static_cast<size_t>(step * most_window)) {
    // applied in both directions, so that the peak of the product is 1
    const double gain = std::sqrt(step / (theta * std::sqrt(0.5 * 3.141592653589793)));
    float* at = values.as<float>();
    for (int p = 0; p < step; ++p) {
      const int low = -((reach + p) / step), high = (reach - p) / step;
      phases.as<Phase>()[p] = {at, low, high - low + 1};
      for (int k = low; k <= high; ++k) {
        const double r = static_cast<double>(step) * k + p;
        *at++ = static_cast<float>(gain * std::exp(-r * r / (theta * theta)));
      }
    }
    window = highest - lowest + 1;
    for (const int size : windows)
      if (window <= size) {
        window = size;
        break;
      }
    for (int p = 0; p < step; ++p)
      for (int j = 0; j < window; ++j) {
        const int k = highest - j - phase(p).low;
        by_pixel.as<float>()[p * window + j] = k < 0 || k >= phase(p).count ? 0.f : phase(p).weights[k];
      }
  }
  // Between a pixel of phase p and the window: [window] numbers, from the first coarse pixel on.
  const float* window_of(int p) const { return by_pixel.as<float>() + p * window; }
  const Phase& phase(int p) const { return phases.as<const Phase>()[p]; }
  // The same weights relative to a pixel of phase p: those of the mirrored phase.
  Phase back(int p) const {
    return p == 0 ? phase(0) : Phase{phase(step - p).weights, phase(step - p).low + 1, phase(step - p).count};
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
  // Sums over a window read and write coarse columns up to `margin` beyond both ends of a line.
  struct Lines {
    int64_t pixels, coarse, fine, rows, coarse_rows;  // of the two rings: number of lines

    Lines(const Coarse& c, const CoarseAxis& x, const CoarseAxis& y, int64_t width)
        : pixels(width + (4 * x.margin + 2 + x.window) * x.step), coarse(c.line_of(pixels / x.step)),
          fine(c.line_of(width + (2 + x.window) * x.step)), rows(y.step * (outputs + 2 * y.margin)),
          coarse_rows(2 * (outputs + y.margin)) {}
    int64_t numbers() const { return pixels + (rows + outputs) * coarse + coarse_rows * fine; }
    int64_t pointers() const { return rows + pixels; }
    int64_t longest() const { return coarse > fine ? coarse : fine; }
  };

  // Along x and y, one tile of columns at a time; `source` as in Separable::plane.
  template <class Source>
  void plane(const Source& source, const CoarseAxis& x, const CoarseAxis& y, float* out) const {
    const int64_t n = problem.grid[2], rows = problem.grid[1], planes = problem.batch * problem.grid[0];
    const int64_t tiles = tile_count(x, planes);
    const Lines lines(*this, x, y, (n + tiles - 1) / tiles);
    const int64_t own = lines.numbers();
    const Buffer memory(static_cast<size_t>(threads * own + lines.longest()) * sizeof(float));
    const Buffer places(static_cast<size_t>(threads * lines.pointers()) * sizeof(float*));
    float* nothing = memory.as<float>() + threads * own;
    for (int64_t i = 0; i < lines.longest(); ++i) nothing[i] = 0.f;
    parallel_for(planes * tiles, threads, [&](int64_t task, int worker) {
      const int64_t left = n * (task % tiles) / tiles, right = n * (task % tiles + 1) / tiles;
      Tile<Source>(*this, source, x, y, lines, memory.as<float>() + worker * own,
                   places.as<const float*>() + worker * lines.pointers(), nothing, task / tiles * rows, left,
                   right)
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
    const int64_t first, last;                         // steps of the columns
    const int64_t begin, count;                        // coarse columns
    float* factors;                                    // of the pixels of a row
    // rows in coarse columns (a ring); coarse rows; coarse rows expanded to all columns (a ring)
    float *kept, *between, *finished;
    const float **places, **pixels, *nothing;  // the lines of a sum; the pixels of a row; a line of zeros

    Tile(const Coarse& c, const Source& s, const CoarseAxis& x_, const CoarseAxis& y_, const Lines& l,
         float* memory, const float** places_, const float* nothing_, int64_t base_, int64_t left_,
         int64_t right_)
        : source(s), x(x_), y(y_), lines(l), labels(c.labels), n(c.problem.grid[2]), rows(c.problem.grid[1]),
          base(base_), left(left_), right(right_), first(left / x.step), last((right - 1) / x.step + 1),
          begin(x.first(left)), count(x.last(right) - begin + 1), factors(memory),
          kept(factors + lines.pixels + x.margin * labels), between(kept + lines.rows * lines.coarse),
          finished(between - x.margin * labels + outputs * lines.coarse), places(places_),
          pixels(places + lines.rows), nothing(nothing_) {}

    void run(float* out) const {
      for (int64_t i = 0; i < outputs * lines.coarse; ++i) between[i - x.margin * labels] = 0.f;
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

    // Reduces one row to coarse columns.
    void to_coarse_columns(int64_t row) const {
      const int64_t from = (begin + x.lowest) * x.step,
                    until = (begin + count + x.highest + x.window) * x.step;
      for (int64_t i = from; i < until; ++i) {
        const bool any = i >= 0 && i < n;
        pixels[i - from] = any ? source.row((base + row) * n + i) : nothing;
        factors[i - from] = any ? source.factor((base + row) * n + i) : 1.f;
      }
      float* to = kept + row % lines.rows * lines.coarse;
      const int64_t below = (row + 1 < rows ? base + row + 1 : base) * n;
      // A pack writes past the end of a row, so that the last one is the first to be computed.
      for (int64_t b = last_pack(); b >= 0; b -= lanes)
        with_window([&]<int W, int S>() { to_coarse_columns<W, S>(to, b, b == last_pack() ? below : -1); });
      for (int64_t b = 0; b < 2 * lanes; b += lanes) P::zero().store(to + count * labels + b);
    }

    // The sums of one pack of all coarse columns: every pixel is read once and added to all sums of its
    // window. Prefetches the row that begins at pixel `below`, unless it is negative.
    template <int W, int S>
    void to_coarse_columns(float* line, int64_t b, int64_t below) const {
      const int64_t next = labels, size = x.step, end = n;
      const Weights<W, S> weights(x);
      const float* const* pixel = pixels;
      const float* factor = source.scale ? factors : nullptr;
      int64_t asked = std::max<int64_t>((begin + x.lowest) * size, 0);
      float* to = line + b + (x.lowest - x.highest) * next;
      P sum[W];
      each<W>([&]<int J>() CRFRNN_INLINE_LAMBDA { sum[J] = P::zero(); });
      // In each turn the sum of the coarse column that lies farthest behind is complete.
      turns<W>(begin + x.lowest, begin + count + x.highest, [&]<int Turn>(int64_t step) CRFRNN_INLINE_LAMBDA {
        if (below >= 0)
          for (const int64_t until = std::min((step + 1) * size, end); asked < until; ++asked)
            source.ask(below + asked);
        weights.each_pixel([&](int p, const auto& weight) CRFRNN_INLINE_LAMBDA {
          P value = P::load(pixel[p] + b);
          if (factor) value = value * P::set(factor[p]);
          each<W>([&]<int J>() CRFRNN_INLINE_LAMBDA {
            sum[(J + Turn) % W] = P::fma(weight.template operator()<J>(), value, sum[(J + Turn) % W]);
          });
        });
        pixel += size;
        if (factor) factor += size;
        if (to >= line) sum[Turn].store(to);
        to += next;
        sum[Turn] = P::zero();
      });
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
          across(y.phase(q), places + (y.margin + y.phase(q).low) * y.step + q, y.step, c, sum);
        for (int j = 0; j < outputs; ++j)
          for (int m = 0; m < packs; ++m) sum[j][m].store(between + j * lines.coarse + c + m * lanes);
      }
    }

    // Expands one coarse row to all columns of its steps.
    void to_all_columns(const float* from, float* to) const {
      for (int64_t b = last_pack(); b >= 0; b -= lanes)
        with_window([&]<int W, int S>() { to_all_columns<W, S>(from + b, to + b); });
    }

    // One pack of all columns: every coarse column is read once and stays in the window of the pixels that it
    // contributes to.
    template <int W, int S>
    void to_all_columns(const float* from, float* to) const {
      const int64_t next = labels;
      const Weights<W, S> weights(x);
      from += (first - x.highest - begin) * next;
      P value[W];
      each<W - 1>([&]<int J>() CRFRNN_INLINE_LAMBDA { value[J] = P::load(from + J * next); });
      from += (W - 1) * next;
      turns<W>(first, last, [&]<int Turn>(int64_t) CRFRNN_INLINE_LAMBDA {
        value[(W - 1 + Turn) % W] = P::load(from);
        from += next;
        weights.each_pixel([&](int, const auto& weight) CRFRNN_INLINE_LAMBDA {
          P sum = P::zero();
          each<W>([&]<int J>() CRFRNN_INLINE_LAMBDA {
            sum = P::fma(weight.template operator()<J>(), value[(J + Turn) % W], sum);
          });
          sum.store(to);
          to += next;
        });
      });
    }

    int64_t last_pack() const { return (labels - 1) / lanes * lanes; }

    // Calls f.operator()<W, S>() with the size of the window and of a step, 0 if it is not a constant.
    template <class F>
    CRFRNN_INLINE void with_window(const F& f) const {
      if (x.window == 10 && x.step == 2) return f.template operator()<10, 2>();
      if (x.window == 10) return f.template operator()<10, 0>();
      if (x.window == 12) return f.template operator()<12, 0>();
      f.template operator()<16, 0>();
    }

    // Calls f.operator()<j>() for j = 0 … W - 1. With a loop instead, or with a test for the last step within
    // a turn, compilers keep a window in memory.
    template <int W, class F>
    static CRFRNN_INLINE void each(const F& f) {
      [&]<int... J>(std::integer_sequence<int, J...>)
          CRFRNN_INLINE_LAMBDA { (f.template operator()<J>(), ...); }(std::make_integer_sequence<int, W>{});
    }

    // The weights between the pixels of a step and the window, in registers if the size of a step is a
    // constant.
    template <int W, int S>
    struct Weights {
      const CoarseAxis& axis;
      P kept[S > 0 ? S * W : 1];

      explicit CRFRNN_INLINE Weights(const CoarseAxis& a) : axis(a) {
        each<S * W>([&]<int J>() CRFRNN_INLINE_LAMBDA { kept[J] = P::set(axis.window_of(0)[J]); });
      }
      // Calls f(p, weight) for the pixels of a step, where weight.operator()<j>() is the weight of column j.
      template <class F>
      CRFRNN_INLINE void each_pixel(const F& f) const {
        if constexpr (S > 0) {
          each<S>([&]<int Q>() CRFRNN_INLINE_LAMBDA {
            f(Q, [&]<int J>() CRFRNN_INLINE_LAMBDA { return kept[Q * W + J]; });
          });
        } else {
          for (int p = 0; p < axis.step; ++p)
            f(p, [at = axis.window_of(p)]<int J>() CRFRNN_INLINE_LAMBDA { return P::set(at[J]); });
        }
      }
    };

    // Calls advance.operator()<t>(step) for each step in [first, last) and up to W - 1 more, t = 0 … W - 1 in
    // turn, so that the registers of a window are constants.
    template <int W, class Advance>
    static CRFRNN_INLINE void turns(int64_t first, int64_t last, const Advance& advance) {
      for (int64_t step = first; step < last; step += W)
        each<W>([&]<int Turn>() CRFRNN_INLINE_LAMBDA { advance.template operator()<Turn>(step + Turn); });
    }

    // Computes rows [at, at + outputs) × step from the coarse rows before `until`.
    void to_all_rows(int64_t at, int64_t until, float* out) const {
      const int64_t length = (right - left) * labels, skip = (left - first * x.step) * labels,
                    top = y.first(0);
      for (int q = 0; q < y.step; ++q) {
        const auto phase = y.back(q);
        for (int i = 0; i < phase.count + outputs - 1; ++i) {
          const int64_t row = at + phase.low + i;
          places[i] = row < top || row >= until ? nothing : ring(row) + skip;
        }
        float* to[outputs];
        int made = 0;
        for (; made < outputs && (at + made) * y.step + q < rows; ++made)
          to[made] = out + ((base + (at + made) * y.step + q) * n + left) * labels;
        int64_t c = 0;
        if (made == outputs)
          for (; c + packs * lanes <= length; c += packs * lanes) {
            for (int j = 0; j < outputs; ++j) prefetch_to_write(to[j] + c + far_ahead * 2);
            P sum[outputs][packs];
            clear(sum);
            across(phase, places, 1, c, sum);
            for (int j = 0; j < outputs; ++j)
              for (int m = 0; m < packs; ++m) sum[j][m].store(to[j] + c + m * lanes);
          }
        for (; c < length; c += packs * lanes) {
          P sum[outputs][packs];
          clear(sum);
          across(phase, places, 1, c, sum);
          for (int j = 0; j < made; ++j)
            for (int m = 0; m < packs; ++m)
              sum[j][m].store(to[j] + c + m * lanes, P::Lanes::first(length - c - m * lanes));
        }
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
