// Where the points of a query are, what they weigh, and the gradients of both.
#pragma once
#include <array>
#include <vector>

#include "planes.h"

namespace piip::PIIP_ISA {
namespace {

// The points of one query, for the heads of a group: entry h * points + p. Entries come in whole vectors; what is past the
// group's last head belongs to other heads, or to nobody, and is not used. kPoints: the number of points of a head where it is
// known when compiling (then entries are arrays, not vectors, and a query takes no test), else 0.
template <class A, int kPoints>
struct Points {
  static constexpr int L = kLanes<A>;
  static_assert(kPoints == 0 || (L % kPoints == 0 && kMostHeads * kPoints % L == 0));
  using V = Vec<A, L>;
  using I = Vec<Int<A>, L>;
  template <class T, int kEach = 1>
  using Entries = std::conditional_t<kPoints == 0, std::vector<T>, std::array<T, kEach * kMostHeads * kPoints>>;
  const Call& call;
  int64_t offsets_size, logits_size;    // elements from the first query's first to the last query's last
  int64_t padded;                       // entries here
  bool in_lanes;                        // a head's points are neighbouring lanes of one vector
  A width, height;                      // of the map
  Int<A> row, pixel;                    // of the planes
  Entries<A> attention;                 // softmax of the logits over a head's points
  Entries<A> weight[4];                 // attention * bilinear, of the corners top left, top right, bottom left and right
  Entries<A> x, y;                      // the location's fraction of a pixel
  Entries<A, 4> dot;                    // backward: output gradient . corner, four for each point
  Entries<Int<A>> corner, head_start;   // top left corner, and start of the head, in the planes
  std::vector<A> x_reference, y_reference;  // reference point of each column and row of queries, in value pixels, minus 0.5

  Points(const Call& call, const Planes<A>& planes)
      : call(call),
        offsets_size((call.batch * call.queries() - 1) * call.offsets_row + 2 * call.heads * call.points),
        logits_size((call.batch * call.queries() - 1) * call.logits_row + call.heads * call.points),
        padded((call.heads_per_group * call.points + L - 1) / L * L),
        in_lanes(call.points <= L && (call.points & (call.points - 1)) == 0),
        width(A(call.value_width)), height(A(call.value_height)), row(Int<A>(planes.row)), pixel(Int<A>(planes.pixel)),
        x_reference(call.query_width), y_reference(call.query_height) {
    if constexpr (kPoints == 0) {
      for (auto* entries : {&attention, &weight[0], &weight[1], &weight[2], &weight[3], &x, &y}) entries->resize(padded);
      dot.resize(4 * padded), corner.resize(padded), head_start.resize(padded);
    }
    for (int64_t i = 0; i < padded; ++i) head_start[i] = Int<A>(i / call.points * planes.plane);
    for (int64_t c = 0; c < call.query_width; ++c) x_reference[c] = A((c + 0.5) / call.query_width * call.value_width - 0.5);
    for (int64_t r = 0; r < call.query_height; ++r) y_reference[r] = A((r + 0.5) / call.query_height * call.value_height - 0.5);
  }

  int64_t points() const { return kPoints == 0 ? call.points : kPoints; }

  // Every lane gets what `combine` makes of all points of its head: neighbours exchange, then neighbouring pairs, and so on.
  template <int kStep = 1, class Combine>
  [[gnu::always_inline]] V over_points(V v, Combine combine) const {
    if constexpr (kStep < L) {
      if (kStep < points()) return over_points<2 * kStep>(combine(v, __builtin_shuffle(v, lanes<A>([](int i) { return i ^ kStep; }))), combine);
    }
    return v;
  }
  [[gnu::always_inline]] V sum_over_points(V v) const {
    return over_points(v, [](V a, V b) { return a + b; });
  }

  [[gnu::always_inline]] V softmax(V logit) const {
    const V e = exp_nonpositive(V(logit - over_points(logit, larger<V>)));
    return e / sum_over_points(e);
  }

  // The same for a number of points that is not a power of two, or is large; for all of `attention`.
  void softmax_by_head(int64_t heads) {
    for (int64_t h = 0; h < heads; ++h) {
      A* a = &attention[h * call.points];
      A most = a[0];
      for (int64_t p = 1; p < call.points; ++p) most = a[p] > most ? a[p] : most;
      for (int64_t p = 0; p < call.points; ++p) a[p] -= most;
    }
    for (int64_t i = 0; i < padded; i += L) store(&attention[i], exp_nonpositive(load<V>(&attention[i])));
    for (int64_t h = 0; h < heads; ++h) {
      A* a = &attention[h * call.points];
      A sum = 0;
      for (int64_t p = 0; p < call.points; ++p) sum += a[p];
      for (int64_t p = 0; p < call.points; ++p) a[p] /= sum;
    }
  }

  // Integer part of a coordinate, as a column or row of a plane, from 0 on; `coordinate` becomes its fraction. That may be -1e-7, where
  // a coordinate is nearer to a pixel than the sum with kBorder can tell: no matter for an interpolation.
  [[gnu::always_inline]] static I split(V& coordinate, A size) {
    const V inside = larger(coordinate, V{} - A(kBorder)), bounded = smaller(inside, V{} + size);  // NaN gives -kBorder
    const I whole = __builtin_convertvector(bounded + A(kBorder), I);
    coordinate = bounded - (__builtin_convertvector(whole, V) - A(kBorder));
    return whole;
  }

  // Where the entries of a query start.
  int64_t offsets_at(int64_t query, int64_t first_head) const { return query * call.offsets_row + 2 * first_head * points(); }
  int64_t logits_at(int64_t query, int64_t first_head) const { return query * call.logits_row + first_head * points(); }

  // Reads one query's offsets and logits; fills `corner` and `weight`, and what the gradients need. Inlined it is a seventh of a narrow
  // head's forward; the backward's own work hides a call, which is compiled once for all widths.
  [[gnu::noinline]] void locate_for_gradients(int64_t query, A left, A above_it, int64_t first_head, int64_t heads) {
    locate<true>(query, left, above_it, first_head, heads);
  }
  template <bool kGradients>
  [[gnu::always_inline]] void locate(int64_t query, A left, A above_it, int64_t first_head, int64_t heads) {
    const int64_t offset = offsets_at(query, first_head), logit = logits_at(query, first_head);
    if (kPoints == 0 && !in_lanes) {
      read_some(call.logits, logit, heads * points(), attention.data());
      softmax_by_head(heads);
    }
    for (int64_t i = 0; i < padded; i += L) {
      const V attended = kPoints != 0 || in_lanes ? softmax(read_lanes<A>(call.logits, logit + i, logits_size)) : load<V>(&attention[i]);
      const V pairs = read_lanes<A>(call.offsets, offset + 2 * i, offsets_size);
      const V more = read_lanes<A>(call.offsets, offset + 2 * i + L, offsets_size);
      V fx = __builtin_shuffle(pairs, more, lanes<A>([](int i) { return 2 * i; })) + left;
      V fy = __builtin_shuffle(pairs, more, lanes<A>([](int i) { return 2 * i + 1; })) + above_it;
      const V a = attended + ((fx - fx) + (fy - fy));  // a location that is not finite gives NaN
      const I column = split(fx, width), line = split(fy, height);
      store(&corner[i], load<I>(&head_start[i]) + line * row + column * pixel);
      const V below = a * fy, above = a - below, top_right = above * fx, bottom_right = below * fx;
      store(&weight[0][i], above - top_right);
      store(&weight[1][i], top_right);
      store(&weight[2][i], below - bottom_right);
      store(&weight[3][i], bottom_right);
      if constexpr (kGradients) {
        store(&attention[i], a);
        store(&x[i], fx);
        store(&y[i], fy);
      }
    }
  }

  // From `dot` to the gradients of one query's offsets and logits.
  [[gnu::noinline]] void write_gradients(int64_t query, int64_t first_head, int64_t heads) {
    const int64_t offset = offsets_at(query, first_head), logit = logits_at(query, first_head);
    const int64_t used = heads * points();
    for (int64_t i = 0; i < used; i += L) {
      const V fx = load<V>(&x[i]), fy = load<V>(&y[i]), a = load<V>(&attention[i]);
      const auto [d0, d1, d2, d3] = corners_apart(&dot[4 * i]);
      const V top = d0 + fx * (d1 - d0), bottom = d2 + fx * (d3 - d2);
      const V of_attention = top + fy * (bottom - top);
      const V of_x = a * ((d1 - d0) + fy * ((d3 - d2) - (d1 - d0))), of_y = a * (bottom - top);
      const int64_t count = std::min<int64_t>(L, used - i);
      const I low = lanes<A>([](int i) { return i / 2 + i % 2 * L; });  // x0 y0 x1 y1 ...
      const int64_t of_pairs = 2 * count, first_pairs = std::min<int64_t>(L, of_pairs);
      write_lanes<A>(call.grad_offsets, offset + 2 * i, first_pairs, __builtin_shuffle(of_x, of_y, low));
      write_lanes<A>(call.grad_offsets, offset + 2 * i + L, of_pairs - first_pairs, __builtin_shuffle(of_x, of_y, low + Int<A>(L / 2)));
      if (kPoints != 0 || in_lanes) {
        write_lanes<A>(call.grad_logits, logit + i, count, V(a * (of_attention - sum_over_points(a * of_attention))));
      } else {
        store(&weight[0][i], of_attention);
      }
    }
    if (kPoints == 0 && !in_lanes) softmax_gradient_by_head(logit, heads);
  }

  struct Corners {
    V top_left, top_right, bottom_left, bottom_right;
  };
  // From the four corners of each of L points to each corner of all points.
  static Corners corners_apart(const A* four_each) {
    const V a = load<V>(four_each), b = load<V>(four_each + L), c = load<V>(four_each + 2 * L), d = load<V>(four_each + 3 * L);
    // Lanes 0, 4, 8, ... of two vectors, then 1, 5, 9, ...
    const I first = lanes<A>([](int i) { return i < L / 2 ? 4 * i : 4 * (i - L / 2) + 1; });
    const V top_ab = __builtin_shuffle(a, b, first), top_cd = __builtin_shuffle(c, d, first);
    const V bottom_ab = __builtin_shuffle(a, b, first + 2), bottom_cd = __builtin_shuffle(c, d, first + 2);
    const I half = lanes<A>([](int i) { return i < L / 2 ? i : i + L / 2; });
    return {__builtin_shuffle(top_ab, top_cd, half), __builtin_shuffle(top_ab, top_cd, half + L / 2),
            __builtin_shuffle(bottom_ab, bottom_cd, half), __builtin_shuffle(bottom_ab, bottom_cd, half + L / 2)};
  }

  void softmax_gradient_by_head(int64_t logit, int64_t heads) {
    for (int64_t h = 0; h < heads; ++h) {
      const A* a = &attention[h * call.points];
      A* gradient = &weight[0][h * call.points];
      A mean = 0;
      for (int64_t p = 0; p < call.points; ++p) mean += a[p] * gradient[p];
      for (int64_t p = 0; p < call.points; ++p) gradient[p] = a[p] * (gradient[p] - mean);
    }
    write_some(call.grad_logits, logit, heads * call.points, weight[0].data());
  }
};

}  // namespace
}  // namespace piip::PIIP_ISA
