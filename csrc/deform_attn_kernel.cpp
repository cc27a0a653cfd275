// Softmax, sampling locations and bilinear sampling of deformable attention in one pass over the queries, and its gradients.
//
// A unit of work is one image and a group of neighbouring heads. It first copies the group's maps into planes of its own, one
// per head, with a border of zeros and padded channels: neighbouring corners are then neighbours in memory, and every load is a
// whole vector without a test. The gradient of the value is summed in such planes too, by one thread in the order of the
// queries: no atomics, and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include "deform_attn_kernel.h"

#include "points.h"

namespace piip::PIIP_ISA {
namespace {

// One group of heads of one image.
struct Group {
  const Call& call;
  int64_t image, first_head, heads;
  Group(const Call& call, int64_t item)
      : call(call),
        image(item / call.groups_per_image()),
        first_head(item % call.groups_per_image() * call.heads_per_group),
        heads(std::min(call.heads_per_group, call.heads - first_head)) {}

  // Where the group's channels of a query start in the output.
  int64_t channel_at(int64_t query) const { return (query * call.heads + first_head) * call.channels; }

  // visit(row, column, the query among those of all images, a later query)
  template <class Visit>
  void for_each_query(Visit visit) const {
    constexpr int64_t kAhead = 12;
    const int64_t last = call.batch * call.queries() - 1;
    int64_t query = image * call.queries();
    for (int64_t r = 0; r < call.query_height; ++r)
      for (int64_t c = 0; c < call.query_width; ++c, ++query) visit(r, c, query, std::min(query + kAhead, last));
  }

  // visit(row, column, place of the group's first head at this pixel, in channels)
  template <class A, bool kPrefetch, class Visit>
  void for_each_pixel(const Array& array, Visit visit) const {
    constexpr int64_t kAhead = 16;
    const int64_t step = call.heads * call.channels, pixels = call.value_height * call.value_width;
    const int64_t last = (call.batch * pixels * call.heads - heads) * call.channels;
    int64_t place = (image * pixels * call.heads + first_head) * call.channels;
    for (int64_t y = 0; y < call.value_height; ++y)
      for (int64_t x = 0; x < call.value_width; ++x, place += step) {
        if constexpr (kPrefetch) prefetch<A, 0>(array, std::min(place + kAhead * step, last), heads * call.channels);
        visit(y, x, place);
      }
  }

  // Writes a block of a head's channels. Whole vectors, whose padding the next block or head overwrites; only the last is counted.
  template <class A, int W>
  [[gnu::always_inline]] void write_channels(const Array& array, int64_t query, int64_t head, int64_t block, const Channels<A, W>& v) const {
    const int64_t place = channel_at(query) + head * call.channels + block;
    if (place + W <= channel_at(query) + heads * call.channels) {
      for_stored<A>(array, place, [&](auto* to) { v.to(to); });
    } else {
      A all[W];
      v.to(all);
      write(array, place, std::min<int64_t>(W, call.channels - block), all);
    }
  }

  // Copies the value; the rest of each pixel, if there is more, becomes zero.
  template <class A, int W>
  void read_value(Planes<A>& planes) const {
    const int64_t size = call.batch * call.value_height * call.value_width * call.heads * call.channels;
    for_each_pixel<A, true>(call.value, [&](int64_t y, int64_t x, int64_t place) {
      A* pixel = planes.at(y, x);
      for (int64_t h = 0; h < heads; ++h, pixel += planes.plane, place += call.channels) {
        for (int64_t block = 0; block < planes.channels; block += W) {
          const int64_t count = std::min<int64_t>(W, call.channels - block);
          read_channels<A, W>(call.value, place + block, count, size).to(pixel + block);
        }
        for (int64_t block = planes.channels; block < planes.pixel; block += W) Channels<A, W>{}.to(pixel + block);
      }
    });
  }

  template <class A, int W>
  void write_grad_value(Planes<A>& planes, A* row) const {
    for_each_pixel<A, false>(call.grad_value, [&](int64_t y, int64_t x, int64_t place) {
      const A* gradient = planes.at(y, x) + planes.channels;
      for (int64_t h = 0; h < heads; ++h, gradient += planes.plane)
        for (int64_t block = 0; block < planes.channels; block += W)
          Channels<A, W>::from(gradient + block).to(row + h * call.channels + block);  // the next head overwrites padding
      stream(call.grad_value, place, heads * call.channels, row);
    });
    finish_streams();
  }
};

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
// A head's four points where a vector holds two pixels: those beside each other are one load, the weights of both one shuffle.
template <int W, class A>
[[gnu::always_inline]] inline Channels<A, W> sample_pairs(const Points<A, 4>& points, const A* data, int64_t row, int64_t head) {
  constexpr int L = 2 * W;
  using V = Vec<A, L>;
  using I = Vec<Int<A>, L>;
  const auto w = [&](int corner) { return load<Vec<A, 4>>(&points.weight[corner][4 * head]); };
  const auto joined = [](auto a, auto b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7); };
  const V weights = __builtin_shufflevector(joined(w(0), w(1)), joined(w(2), w(3)), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  V upper{}, lower{};
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
    I top, bottom;
    for (int i = 0; i < L; ++i) top[i] = p + i / W * 4, bottom[i] = top[i] + 8;
    const A* corner = data + points.corner[4 * head + p];
    upper += __builtin_shuffle(weights, top) * load<V>(corner);
    lower += __builtin_shuffle(weights, bottom) * load<V>(corner + row);
  }
  const V both = upper + lower;
  Channels<A, W> low, high;
  low.first = __builtin_shufflevector(both, both, 0, 1, 2, 3, 4, 5, 6, 7);
  high.first = __builtin_shufflevector(both, both, 8, 9, 10, 11, 12, 13, 14, 15);
  low.add(high);
  return low;
}

template <class A, int W, bool kWhole, int kPoints>
void forward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call, 1);
  Points<A, kPoints> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.template read_value<A, W>(value);
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      prefetch<A, 0>(call.offsets, points.offsets_at(later, group.first_head), 2 * group.heads * points.points());
      prefetch<A, 0>(call.logits, points.logits_at(later, group.first_head), group.heads * points.points());
      prefetch<A, 1>(call.out, group.channel_at(later), group.heads * call.channels);
      points.template locate<false>(query, points.x_reference[c], points.y_reference[r], group.first_head, group.heads);
      for (int64_t h = 0; h < group.heads; ++h) {
        for (int64_t block = 0; block < channels; block += W) {
          if constexpr (kPoints == 4 && W == 8 && kLanes<A> == 16) {
            group.write_channels(call.out, query, h, block, sample_pairs<W>(points, value.data, row, h));
            continue;
          }
          Channels<A, W> upper, lower;  // two sums, so that additions overlap
          for (int64_t p = 0; p < points.points(); ++p) {
            const int64_t i = h * points.points() + p;
            const A* corner = value.data + points.corner[i] + block;
            upper.add(points.weight[0][i], Channels<A, W>::from(corner));
            upper.add(points.weight[1][i], Channels<A, W>::from(corner + channels));
            lower.add(points.weight[2][i], Channels<A, W>::from(corner + row));
            lower.add(points.weight[3][i], Channels<A, W>::from(corner + row + channels));
          }
          upper.add(lower);
          group.write_channels(call.out, query, h, block, upper);
        }
      }
    });
  }
}

template <class A, int W, bool kWhole, int kPoints>
void backward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> planes(call, 2);
  Points<A, kPoints> points(call, planes);
  const int64_t channels = kWhole ? W : planes.channels, row = planes.row;
  const int64_t size = call.batch * call.query_height * call.query_width * call.heads * call.channels;
  std::vector<A> result(call.heads_per_group * call.channels + channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.template read_value<A, W>(planes);
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      prefetch<A, 0>(call.offsets, points.offsets_at(later, group.first_head), 2 * group.heads * points.points());
      prefetch<A, 0>(call.logits, points.logits_at(later, group.first_head), group.heads * points.points());
      prefetch<A, 0>(call.grad_out, group.channel_at(later), group.heads * call.channels);
      prefetch<A, 1>(call.grad_offsets, points.offsets_at(later, group.first_head), 2 * group.heads * points.points());
      prefetch<A, 1>(call.grad_logits, points.logits_at(later, group.first_head), group.heads * points.points());
      points.template locate<true>(query, points.x_reference[c], points.y_reference[r], group.first_head, group.heads);
      for (int64_t h = 0; h < group.heads; ++h) {
        for (int64_t block = 0; block < channels; block += W) {
          const int64_t count = std::min<int64_t>(W, call.channels - block);
          const auto out = read_channels<A, W>(call.grad_out, group.channel_at(query) + h * call.channels + block, count, size);
          // The gradient behind a pixel's value grows; what the value says about that of its weight, to be summed up.
          const auto visit = [&](A* at_value, A weight) __attribute__((always_inline)) {
            auto sum = Channels<A, W>::from(at_value + channels);
            sum.add(weight, out);
            sum.to(at_value + channels);
            return Channels<A, W>::from(at_value).products(out);
          };
          for (int64_t p = 0; p < points.points(); ++p) {
            const int64_t i = h * points.points() + p;
            A *above = planes.data + points.corner[i] + block, *below = above + row;
            const auto top_left = visit(above, points.weight[0][i]), top_right = visit(above + 2 * channels, points.weight[1][i]);
            const auto bottom_left = visit(below, points.weight[2][i]), bottom_right = visit(below + 2 * channels, points.weight[3][i]);
            Vec<A, 4> dots = sums<A, Channels<A, W>::kLast>(top_left, top_right, bottom_left, bottom_right);
            if (!kWhole && block > 0) dots += load<Vec<A, 4>>(&points.dot[4 * i]);
            store(&points.dot[4 * i], dots);
          }
        }
      }
      points.write_gradients(query, group.first_head, group.heads);
    });
    group.template write_grad_value<A, W>(planes, result.data());
  }
}

// The widths worth a loop of their own: heads of PIIP have 4 to 32 channels; and its four points.
template <class Run>
void for_width(const Call& call, Run run) {
  const auto with_points = [&](auto width) {
    if (call.points == 4) return run(width, std::true_type{}, std::integral_constant<int, 4>{});
    return run(width, std::true_type{}, std::integral_constant<int, 0>{});
  };
  switch (padded_channels(call.channels)) {
    case 4: return with_points(std::integral_constant<int, 4>{});
    case 8: return with_points(std::integral_constant<int, 8>{});
    case 16: return with_points(std::integral_constant<int, 16>{});
    case 24: return with_points(std::integral_constant<int, 24>{});
    case 32: return with_points(std::integral_constant<int, 32>{});
    default: return run(std::integral_constant<int, 16>{}, std::false_type{}, std::integral_constant<int, 0>{});
  }
}

void forward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call, [&](auto width, auto whole, auto points) { forward<float, width, whole, points>(call, begin, end); });
}
void backward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call, [&](auto width, auto whole, auto points) { backward<float, width, whole, points>(call, begin, end); });
}
// float64 is for checking gradients, not for speed: blocks of 4, whatever the width.
void forward_double(const Call& call, int64_t begin, int64_t end) { forward<double, 4, false, 0>(call, begin, end); }
void backward_double(const Call& call, int64_t begin, int64_t end) { backward<double, 4, false, 0>(call, begin, end); }

}  // namespace

extern const Kernels kernels = {forward_float, forward_double, backward_float, backward_double};

}  // namespace piip::PIIP_ISA
