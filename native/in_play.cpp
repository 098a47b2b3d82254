// SPDX-License-Identifier: MIT
#include "in_play.hpp"

#include "in_play_rows.hpp"
#include "likeliest.hpp"
#include "look.hpp"

namespace crfrnn::CRFRNN_ISA {
namespace {

// The iterations of one problem. Rows get a new layout, and a new *stage* begins, when a label without a
// column comes into play, or when enough labels have left play for shorter rows.
struct Play {
  const Problem& whole;
  const Order order;
  const LabelSet known;
  const float *unary, *initial;
  const Result result;
  LabelSet set;
  int done = 0;  // number of completed iterations

  Play(const Problem& problem, const float* unary_, const float* initial_, const Result& result_)
      : whole(problem), order(problem), known(known_labels(problem)), unary(unary_), initial(initial_),
        result(result_) {}

  static size_t bytes(int64_t numbers) {
    return static_cast<size_t>(numbers + Problem::room) * sizeof(float);
  }

  // Updates the labels in play before the next iteration; returns true if rows need a new layout.
  template <class Highest>
  bool choose(Columns& columns, const Watch& watch, const Highest& highest) {
    bool again = false;
    for (int64_t l = 0; l < whole.labels; ++l) {
      set.has[l] = known.has[l] || highest(l) || watch.entered(fixed_parts, l);
      again = again || (set.has[l] && columns.column[l] < 0);
    }
    columns.choose(set);
    const auto width = [](int64_t count) {
      return RowShape<float, 0>::width_of(padded(count < 1 ? 1 : count));
    };
    return again || (whole.iterations - done > 2 && width(set.size(whole.labels)) < width(columns.count));
  }

  // Writes the rows of U and Q in columns, and the share of the other labels. Q is the softmax of the start,
  // given by `top` and `scale`, or, with `before`, the result of the last stage.
  struct LastStage {
    const Columns& columns;
    const float* marginals;
  };
  void lay_out(const Columns& columns, const float* tops, const float* start, const float* start_top,
               const float* start_scale, const LastStage* before, float* u, float* q, Share* shares) const {
    const int64_t labels = whole.labels, n = whole.pixels, count_of = columns.count;
    const int64_t row_bytes = count_of * static_cast<int64_t>(sizeof(float)) + 63;
    clear_pad(whole, u, count_of);
    clear_pad(whole, q, count_of);
    each_wide_block(whole, [&](int64_t b, int64_t at, int64_t count, int) {
      const int64_t first = b * n + at;
      const float* from = unary + b * labels * n + at;
      const Valid valid(whole, first, count);
      const int packs = packs_of(count);
      const int32_t* place = order.row + first;
      P top[block_packs], rest[block_packs], most[block_packs];
      for (int i = 0; i < packs; ++i) {
        top[i] = P::load(tops + first + i * P::lanes, P::Lanes::first(count - i * P::lanes));
        rest[i] = most[i] = P::zero();
      }
      for (int64_t l = 0; l < labels; ++l) {
        if (columns.column[l] >= 0) continue;
        for (int i = 0; i < packs; ++i) {
          const P e = exp(valid.load(from + l * n, i, count) - top[i]);
          rest[i] = rest[i] + e;
          most[i] = P::max(most[i], e);
        }
      }
      for (int i = 0; i < packs; ++i) {
        alignas(64) float lane[3][P::lanes], scale[P::lanes] = {};
        top[i].store(lane[0]), rest[i].store(lane[1]), most[i].store(lane[2]);
        const int64_t here = first + i * P::lanes;
        const int some = static_cast<int>(count - i * P::lanes < P::lanes ? count - i * P::lanes : P::lanes);
        const auto some_pixels = P::Lanes::first(some);
        for (int64_t later = here + P::lanes; later < here + 2 * P::lanes && later < whole.total(); ++later) {
          const int64_t row = order.row[later];  // where the rows of the following pixels will be written
          prefetch_bytes(u + row * count_of, row_bytes);
          prefetch_bytes(q + row * count_of, row_bytes);
          prefetch(shares + row);
        }
        for (int p = 0; before && p < some; ++p) scale[p] = shares[place[i * P::lanes + p]].scale;
        const P factor = before ? P::load(scale) : P::load(start_scale + here, some_pixels);
        const P start_at = before ? top[i] : P::load(start_top + here, some_pixels);
        const float* start_from = before ? from : start + b * labels * n + at;
        for (int64_t c = 0; c < count_of; c += P::lanes) {
          P tile[P::lanes], marginals[P::lanes];
          for (int j = 0; j < P::lanes; ++j) {
            const bool any = c + j < columns.used;
            const int64_t l = any ? columns.label[c + j] : 0;
            tile[j] = any ? P::load(from + l * n + i * P::lanes, some_pixels) : P::set(minus_infinity);
            marginals[j] =
                any ? exp(valid.load(start_from + l * n, i, count) - start_at) * factor : P::zero();
          }
          P::transpose(tile);
          P::transpose(marginals);
          const auto some_columns = P::Lanes::first(count_of - c);
          for (int p = 0; p < some; ++p) {
            const int64_t row = place[i * P::lanes + p];
            tile[p].store(u + row * count_of + c, some_columns);
            marginals[p].store(q + row * count_of + c, some_columns);
          }
        }
        for (int p = 0; p < some; ++p) {
          const int64_t row = place[i * P::lanes + p];
          shares[row] = {lane[0][p], lane[1][p], lane[2][p], before ? shares[row].scale : 0.f};
          if (is_held<false>(whole, order.pixel[row]))
            write_known(whole, order.pixel[row], columns, q + row * count_of);
          else if (before)
            for (int64_t c = 0; c < columns.used; ++c) {
              const int32_t old = before->columns.column[columns.label[c]];
              if (old >= 0) q[row * count_of + c] = before->marginals[row * before->columns.count + old];
            }
        }
      }
    });
  }

  // The same if all labels are in play: in the order used without δ. Returns false if a value is not finite.
  bool lay_out_all(const Columns& columns, float* u, float* q) const {
    const int64_t width = columns.count;
    if (!planes_to_rows(whole, order, unary, u, width, minus_infinity)) return false;
    if (initial && !planes_to_rows(whole, order, initial, q, width, minus_infinity)) return false;
    const Narrow narrow(whole, columns);
    clear_pad(narrow.problem, q);
    const float* start = initial ? q : u;
    with_padded_packs(narrow.problem, [&]<int NP>() {
      const Packs<NP> packs(narrow.problem);
      parallel_ranges(whole.total(), grain, whole.threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          P x[Packs<NP>::capacity];
          packs.load_logits(start + row * width, x);
          crfrnn::CRFRNN_ISA::write_marginals(whole, order.pixel[row], x, packs, q + row * width);
        }
      });
    });
    return true;
  }

  // Runs one stage; returns true if all iterations are done, and the columns of u then hold x.
  template <int NP>
  bool lean_stage(Columns& columns, float* u, float* q, Share* shares) {
    Narrow narrow(whole, columns);
    const Problem& problem = narrow.problem;
    const Messages messages(problem, order);
    const Leading<NP> leading(messages, false, true);
    const Others others(problem, problem.kernel_count - leading.sliced);
    const Watch watch(problem.width(), whole.labels, fixed_parts);
    leading.begin(q);
    for (;;) {
      narrow.choose(whole, columns);
      const Transforms transforms(problem, false);
      others.pass(leading, q);
      watch.clear(fixed_parts);
      float* next = ++done == whole.iterations ? nullptr : q;
      const LeanForward<NP, true> common{
          problem, whole, columns, watch, Inbox<NP, true>(leading, others, transforms),
          unary,   u,     next,    shares};
      const LeanForward<NP, false> any{
          problem, whole, columns, watch, Inbox<NP, false>(leading, others, transforms),
          unary,   u,     next,    shares};
      leading.turn(next, is_common(problem, leading, transforms), common, any);
      if (!next) return true;
      if (choose(columns, watch, [&](int64_t l) {
            const int32_t c = columns.column[l];
            return c >= 0 && watch.highest(fixed_parts, c, NP < 0 ? -NP : P::lanes) >= whole.in_play;
          }))
        return false;
    }
  }

  // Writes the labels. No label without a column, whose logit is its unary, exceeds `top`: if every column's
  // winner does, the other labels are not read.
  void write_labels(const Columns& columns, const float* x, const float* top) const {
    const int64_t labels = whole.labels, n = whole.pixels, count_of = columns.count;
    each_block(whole, [&](int64_t b, int64_t at, int count) {
      const float* from = unary + b * labels * n + at;
      const int32_t* place = order.row + b * n + at;
      const auto some_pixels = P::Lanes::first(count);
      Likeliest best;
      for (int64_t c = 0; c < count_of; c += P::lanes) {
        P tile[P::lanes];
        const auto some_columns = P::Lanes::first(count_of - c);
        for (int p = 0; p < P::lanes; ++p)
          tile[p] = P::load(x + int64_t{place[p < count ? p : 0]} * count_of + c, some_columns);
        P::transpose(tile);
        for (int64_t j = 0; j < P::lanes && c + j < columns.used; ++j)
          best.add(tile[j], columns.label[c + j]);
      }
      // The tops of masked pixels are not those of their unary.
      if (columns.used < labels &&
          (whole.mask ||
           !P::all_less(P::select(some_pixels, P::load(top + b * n + at, some_pixels), P::set(-INFINITY)),
                        best.most))) {
        Likeliest others;
        for (int64_t l = 0; l < labels; ++l)
          if (columns.column[l] < 0) others.add(P::load(from + l * n, some_pixels), l);
        best.add(others);
      }
      best.store(result.labels + b * n + at, count);
    });
  }

  // Writes the planes: the columns, and the unary of all other labels.
  void write_planes(const Columns& columns, const float* x) const {
    float* const logits = result.logits;
    const int64_t labels = whole.labels, n = whole.pixels, count_of = columns.count;
    each_wide_block(whole, [&](int64_t b, int64_t at, int64_t count, int) {
      const int64_t from = b * labels * n + at;
      for (int64_t l = 0; l < labels; ++l)
        if (columns.column[l] < 0)
          std::memcpy(logits + from + l * n, unary + from + l * n,
                      static_cast<size_t>(count) * sizeof(float));
      for (int64_t i = 0; i < count; i += P::lanes) {
        const int32_t* place = order.row + b * n + at + i;
        const auto some_pixels = P::Lanes::first(count - i);
        for (int64_t c = 0; c < count_of; c += P::lanes) {
          P tile[P::lanes];
          const auto some_columns = P::Lanes::first(count_of - c);
          for (int p = 0; p < P::lanes; ++p)
            tile[p] = p < count - i ? P::load(x + place[p] * count_of + c, some_columns) : P::zero();
          P::transpose(tile);
          for (int64_t j = 0; j < P::lanes && c + j < columns.used; ++j)
            tile[j].store(logits + from + columns.label[c + j] * n + i, some_pixels);
        }
      }
    });
  }

  bool run_lean() {
    const int64_t total = whole.total();
    const Buffer per_pixel(bytes(4 * total)), share_rows(static_cast<size_t>(total) * sizeof(Share));
    float* top = per_pixel.as<float>();
    float *scale = top + total, *start_top = initial ? scale + total : top,
          *start_scale = initial ? start_top + total : scale;
    // If a few blocks already show that all labels are in play, the other blocks are not examined.
    const float* start = initial ? initial : unary;
    if (!look(whole, start, start_top, start_scale, &set, 16)) return false;
    add_known();
    bool looked = set.size(whole.labels) < whole.labels;
    if (looked) {
      if (initial && !look(whole, unary, top, scale, nullptr)) return false;
      if (!look(whole, start, start_top, start_scale, &set)) return false;
      add_known();
    }
    Share* shares = share_rows.as<Share>();
    Columns columns(set, whole.labels, true);
    Buffer unary_rows(bytes(total * columns.count)), marginal_rows(bytes(total * columns.count));
    bool finite = true;
    if (columns.used == whole.labels)
      finite = lay_out_all(columns, unary_rows.as<float>(), marginal_rows.as<float>());
    else
      lay_out(columns, top, start, start_top, start_scale, nullptr, unary_rows.as<float>(),
              marginal_rows.as<float>(), shares);
    if (!finite) return false;
    for (bool finished = false;;) {
      with_padded_packs(Narrow(whole, columns).problem, [&]<int NP>() {
        finished = lean_stage<NP>(columns, unary_rows.as<float>(), marginal_rows.as<float>(),
                                  columns.used == whole.labels ? nullptr : shares);
      });
      if (finished) break;
      const Columns following(set, whole.labels, true);
      if (!looked) look(whole, unary, top, scale, nullptr);
      looked = true;
      const LastStage before{columns, marginal_rows.as<float>()};
      Buffer next_unary(bytes(total * following.count)), next_marginals(bytes(total * following.count));
      lay_out(following, top, nullptr, nullptr, nullptr, &before, next_unary.as<float>(),
              next_marginals.as<float>(), shares);
      unary_rows.exchange(next_unary), marginal_rows.exchange(next_marginals);
      columns = following;
    }
    if (result.labels) {
      write_labels(columns, unary_rows.as<float>(), top);
      return true;
    }
    write_planes(columns, unary_rows.as<float>());
    if (initial && whole.mask) keep_start_of_masked(result.logits);
    return true;
  }

  // Writes the start where the mask excludes a pixel: such pixels never change.
  void keep_start_of_masked(float* logits) const {
    const int64_t labels = whole.labels, n = whole.pixels;
    parallel_ranges(whole.total(), grain, whole.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t l = 0, at = i / n * labels * n + i % n; !whole.mask[i] && l < labels; ++l, at += n)
          logits[at] = initial[at];
    });
  }

  void add_known() {
    for (int64_t l = 0; l < whole.labels; ++l) set.has[l] = set.has[l] || known.has[l];
  }

  // Computes Q from x, in columns.
  void gather_marginals(const Columns& columns, const Packs<0>& wide, const float* state, float* q) const {
    clear_pad(whole, q, columns.count);
    parallel_ranges(whole.total(), grain, whole.threads, [&](int64_t begin, int64_t end) {
      alignas(64) float all[Packs<0>::capacity * P::lanes];
      for (int64_t row = begin; row < end; ++row) {
        float* out = q + row * columns.count;
        if (is_held<false>(whole, order.pixel[row])) {
          write_known(whole, order.pixel[row], columns, out);
          continue;
        }
        P x[Packs<0>::capacity];
        wide.load_logits(state + row * whole.labels, x);
        softmax(x, wide, all);
        for (int64_t c = 0; c < columns.count; ++c) out[c] = all[columns.label[c]];
      }
    });
  }

  // Writes the columns of A_m, with zeros for a label that sends no messages.
  void write_transforms(const Columns& columns, int64_t width, float* a) const {
    for (int m = 0; m < whole.kernel_count; ++m)
      for (int64_t c = 0; c < columns.count; ++c)
        for (int64_t l = 0; l < width; ++l)
          *a++ = l < whole.labels && columns.sends[c]
                     ? whole.transform[(m * whole.labels + l) * whole.labels + columns.label[c]]
                     : 0.f;
  }

  template <int NP>
  bool wide_stage(Columns& columns, const Packs<0>& wide, const float* u, float* state, float* q) {
    Narrow narrow(whole, columns);
    narrow.problem.damping = 1.f;
    for (int64_t i = 0; i < whole.kernel_count * columns.count * columns.count; ++i)
      narrow.transform.as<float>()[i] = 0.f;
    const Problem& problem = narrow.problem;
    const Messages messages(problem, order);
    const Leading<NP> leading(messages, false, true);
    const Others others(problem, problem.kernel_count - leading.sliced);
    const Transforms none(problem, false);
    const Watch watch(wide.width(), whole.labels, fixed_parts);
    const Buffer transforms(static_cast<size_t>(whole.kernel_count * columns.count * wide.width()) *
                            sizeof(float));
    leading.begin(q);
    for (;;) {
      others.pass(leading, q);
      watch.clear(fixed_parts);
      write_transforms(columns, wide.width(), transforms.as<float>());
      const bool goes_on = ++done < whole.iterations;
      leading.turn(goes_on ? q : nullptr, true,
                   WideForward<NP>{whole, columns, watch, Inbox<NP, false>(leading, others, none),
                                   transforms.as<float>(), u, state, q, goes_on},
                   Unused{});
      if (!goes_on) return true;
      if (choose(columns, watch, [&](int64_t l) { return watch.highest(fixed_parts, l) >= whole.in_play; }))
        return false;
    }
  }

  bool run_wide() {
    const int64_t total = whole.total();
    const Buffer unary_rows(bytes(total * whole.labels)), state_rows(bytes(total * whole.labels)),
        per_pixel(bytes(2 * total));
    float *u = unary_rows.as<float>(), *state = state_rows.as<float>();
    if (!planes_to_rows(whole, order, unary, u)) return false;
    // The first iteration can use the rows of the unary directly if it writes all of `state`.
    const bool fresh = !initial && whole.damping == 1.f && !whole.mask;
    if (!fresh && !planes_to_rows(whole, order, initial ? initial : unary, state)) return false;
    if (!look(whole, initial ? initial : unary, per_pixel.as<float>(), per_pixel.as<float>() + total, &set))
      return false;
    add_known();
    const Packs<0> wide(whole);
    for (bool finished = false; !finished;) {
      Columns columns(set, whole.labels, false);
      const Buffer marginal_rows(bytes(total * columns.count));
      float* q = marginal_rows.as<float>();
      gather_marginals(columns, wide, fresh && !done ? u : state, q);
      with_packs(Narrow(whole, columns).problem,
                 [&]<int NP>() { finished = wide_stage<NP>(columns, wide, u, state, q); });
    }
    write_rows(whole, order, state, result);
    return true;
  }
};

}  // namespace

bool forward_in_play(const Problem& problem, const float* unary, const float* initial, const Result& result) {
  Play play(problem, unary, initial, result);
  return problem.damping == 1.f && is_diagonal(problem) ? play.run_lean() : play.run_wide();
}

}  // namespace crfrnn::CRFRNN_ISA
