// Softmax, sampling locations and bilinear sampling of deformable attention in one pass over the queries, and its gradients.
//
// A unit of work is one image and a group of neighbouring heads. It first copies the group's maps into planes of its own, one
// per head, with a border of zeros and padded channels: neighbouring corners are then neighbours in memory, and every load is a
// whole vector without a test. The gradient of the value is summed in such planes too, by one thread in the order of the
// queries: no atomics, and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include "deform_attn_kernel.h"

#include "group.h"
#include "points.h"

namespace piip::PIIP_ISA {
namespace {

// A head's four points where a vector holds two pixels: those beside each other are one load, the weights of both one shuffle within
// four lanes, which needs no mask in a register.
template <int W, class A>
[[gnu::always_inline]] inline Channels<A, W> sample_pairs(const Points<A, 4>& points, const A* data, int64_t row, int64_t head) {
  constexpr int L = 2 * W;
  using V = Vec<A, L>;
  const V top = four_twice(&points.weight[0][4 * head], &points.weight[1][4 * head]);
  const V bottom = four_twice(&points.weight[2][4 * head], &points.weight[3][4 * head]);
  const auto first = lanes<A, L>([](int i) { return i / 4 * 4; });
  V upper{}, lower{};
  const auto add = [&](int p) __attribute__((always_inline)) {
    const A* corner = data + points.corner[4 * head + p];
    upper += __builtin_shuffle(top, first + p) * load<V>(corner);
    lower += __builtin_shuffle(bottom, first + p) * load<V>(corner + row);
  };
  add(0), add(1), add(2), add(3);
  Channels<A, W> sum;
  sum.first = folded<W, A, L>(upper + lower);
  return sum;
}

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
template <class A, int W, bool kWhole, int kPoints>
void forward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call, 1);
  Points<A, kPoints> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row, width = call.channels;  // of a pixel here, and in tensors
  const Array out = call.out;  // a copy: the compiler knows that writing to the tensor does not change it
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.template read_value<A, W>(value);
    const int64_t heads = group.heads;
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      prefetch<A, 0>(call.offsets, points.offsets_at(later, group.first_head), 2 * group.heads * points.points());
      prefetch<A, 0>(call.logits, points.logits_at(later, group.first_head), group.heads * points.points());
      prefetch<A, 1>(call.out, group.channel_at(later), group.heads * call.channels);
      points.template locate<false>(query, points.x_reference[c], points.y_reference[r], group.first_head, group.heads);
      const int64_t start = group.channel_at(query), end = start + heads * width;
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t block = 0; block < channels; block += W) {
          const int64_t place = start + h * width + block;
          if constexpr (kPoints == 4 && W == 8 && kLanes<A> == 16) {
            write_channels<A, W>(out, place, end, sample_pairs<W>(points, value.data, row, h));
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
          write_channels<A, W>(out, place, end, upper);
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
      points.locate_for_gradients(query, points.x_reference[c], points.y_reference[r], group.first_head, group.heads);
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

// run(block, whole, points): the widths worth a loop of their own, as heads of PIIP have up to 32 channels, and its four points; all
// else in blocks that divide a pixel. Portable code has those only: it is to be there, and short to compile.
template <class Run>
void for_width(const Call& call, Run run) {
  const int64_t channels = padded_channels(call.channels);
  if constexpr (kVectorBytes > 16) {
    const auto whole = [&](auto width) { run(width, std::true_type{}, std::integral_constant<int, 4>{}); };
    if (call.points == 4) {
      switch (channels) {
        case 8: return whole(std::integral_constant<int, 8>{});
        case 16: return whole(std::integral_constant<int, 16>{});
        case 24: return whole(std::integral_constant<int, 24>{});
        case 32: return whole(std::integral_constant<int, 32>{});
        default: break;
      }
    }
    if (channels % 16 == 0) return run(std::integral_constant<int, 16>{}, std::false_type{}, std::integral_constant<int, 0>{});
  }
  run(std::integral_constant<int, 8>{}, std::false_type{}, std::integral_constant<int, 0>{});
}

void forward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call, [&](auto block, auto whole, auto points) { forward<float, block, whole, points>(call, begin, end); });
}
void backward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call, [&](auto block, auto whole, auto points) { backward<float, block, whole, points>(call, begin, end); });
}

}  // namespace

extern const Kernels kernels = {forward_float, backward_float};
#if !defined(__AVX2__)  // float64 is for checking gradients, not for speed: portable code only, blocks of 4 whatever the width
extern const Kernels kernels_double = {forward<double, 4, false, 0>, backward<double, 4, false, 0>};
#endif

}  // namespace piip::PIIP_ISA
