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
  template <class A, int kForWriting, class Visit>
  void for_each_pixel(const Array& array, Visit visit) const {
    constexpr int64_t kAhead = 16;
    const int64_t step = call.heads * call.channels, pixels = call.value_height * call.value_width;
    const int64_t last = (call.batch * pixels * call.heads - heads) * call.channels;
    int64_t place = (image * pixels * call.heads + first_head) * call.channels;
    for (int64_t y = 0; y < call.value_height; ++y)
      for (int64_t x = 0; x < call.value_width; ++x, place += step) {
        prefetch<A, kForWriting>(array, std::min(place + kAhead * step, last), heads * call.channels);
        visit(y, x, place);
      }
  }

  // Copies the value; the rest of each pixel, if there is more, becomes zero.
  template <class A, int W>
  void read_value(Planes<A>& planes) const {
    const int64_t size = call.batch * call.value_height * call.value_width * call.heads * call.channels;
    for_each_pixel<A, 0>(call.value, [&](int64_t y, int64_t x, int64_t place) {
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
    for_each_pixel<A, 1>(call.grad_value, [&](int64_t y, int64_t x, int64_t place) {
      const A* gradient = planes.at(y, x) + planes.channels;
      for (int64_t h = 0; h < heads; ++h, gradient += planes.plane)
        for (int64_t block = 0; block < planes.channels; block += W)
          Channels<A, W>::from(gradient + block).to(row + h * call.channels + block);  // the next head overwrites padding
      write(call.grad_value, place, heads * call.channels, row);
    });
  }
};

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
template <class A, int W, bool kWhole>
void forward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call, 1);
  Points<A> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  std::vector<A> result(call.heads_per_group * call.channels + channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.template read_value<A, W>(value);
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      prefetch<A, 0>(call.offsets, points.offsets_at(later, group.first_head), 2 * group.heads * call.points);
      prefetch<A, 0>(call.logits, points.logits_at(later, group.first_head), group.heads * call.points);
      prefetch<A, 1>(call.out, group.channel_at(later), group.heads * call.channels);
      points.template locate<false>(query, r, c, group.first_head, group.heads);
      const A *w0 = points.weight[0].data(), *w1 = points.weight[1].data(), *w2 = points.weight[2].data(), *w3 = points.weight[3].data();
      const Int<A>* at = points.corner.data();
      for (int64_t h = 0; h < group.heads; ++h) {
        for (int64_t block = 0; block < channels; block += W) {
          Channels<A, W> upper, lower;  // two sums, so that additions overlap
          for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
            const A* corner = value.data + at[i] + block;
            upper.add(w0[i], Channels<A, W>::from(corner));
            upper.add(w1[i], Channels<A, W>::from(corner + channels));
            lower.add(w2[i], Channels<A, W>::from(corner + row));
            lower.add(w3[i], Channels<A, W>::from(corner + row + channels));
          }
          upper.add(lower);
          upper.to(&result[h * call.channels + block]);  // padding is overwritten by the next head
        }
      }
      write(call.out, group.channel_at(query), group.heads * call.channels, result.data());
    });
  }
}

template <class A, int W, bool kWhole>
void backward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> planes(call, 2);
  Points<A> points(call, planes);
  const int64_t channels = kWhole ? W : planes.channels, row = planes.row;
  const int64_t size = call.batch * call.query_height * call.query_width * call.heads * call.channels;
  std::vector<A> grad_out(channels), result(call.heads_per_group * call.channels + channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.template read_value<A, W>(planes);
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      prefetch<A, 0>(call.offsets, points.offsets_at(later, group.first_head), 2 * group.heads * call.points);
      prefetch<A, 0>(call.logits, points.logits_at(later, group.first_head), group.heads * call.points);
      prefetch<A, 0>(call.grad_out, group.channel_at(later), group.heads * call.channels);
      prefetch<A, 1>(call.grad_offsets, points.offsets_at(later, group.first_head), 2 * group.heads * call.points);
      prefetch<A, 1>(call.grad_logits, points.logits_at(later, group.first_head), group.heads * call.points);
      points.template locate<true>(query, r, c, group.first_head, group.heads);
      const A* w[4] = {points.weight[0].data(), points.weight[1].data(), points.weight[2].data(), points.weight[3].data()};
      const Int<A>* at = points.corner.data();
      A* dot = points.dot.data();
      for (int64_t h = 0; h < group.heads; ++h) {
        for (int64_t block = 0; block < channels; block += W) {
          const int64_t count = std::min<int64_t>(W, call.channels - block);
          const auto out = read_channels<A, W>(call.grad_out, group.channel_at(query) + h * call.channels + block, count, size);
          for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
            A* pixel[4] = {planes.data + at[i] + block};  // the four corners
            pixel[1] = pixel[0] + 2 * channels, pixel[2] = pixel[0] + row, pixel[3] = pixel[2] + 2 * channels;
            const A weight[4] = {w[0][i], w[1][i], w[2][i], w[3][i]};
            Vec<A, 4> partial[4];
            for (int corner = 0; corner < 4; ++corner) {
              partial[corner] = Channels<A, W>::from(pixel[corner]).dot(out);
              auto gradient = Channels<A, W>::from(pixel[corner] + channels);
              gradient.add(weight[corner], out);
              gradient.to(pixel[corner] + channels);
            }
            Vec<A, 4> dots = sums<A>(partial[0], partial[1], partial[2], partial[3]);
            if (!kWhole && block > 0) dots += load<Vec<A, 4>>(dot + 4 * i);
            store(dot + 4 * i, dots);
          }
        }
      }
      points.write_gradients(query, group.first_head, group.heads);
    });
    group.template write_grad_value<A, W>(planes, result.data());
  }
}

// The widths worth a loop of their own: heads of PIIP have 4 to 32 channels.
template <class Run>
void for_width(int64_t channels, Run run) {
  switch (padded_channels(channels)) {
    case 4: return run(std::integral_constant<int, 4>{}, std::true_type{});
    case 8: return run(std::integral_constant<int, 8>{}, std::true_type{});
    case 16: return run(std::integral_constant<int, 16>{}, std::true_type{});
    case 24: return run(std::integral_constant<int, 24>{}, std::true_type{});
    case 32: return run(std::integral_constant<int, 32>{}, std::true_type{});
    default: return run(std::integral_constant<int, 16>{}, std::false_type{});
  }
}

void forward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto width, auto whole) { forward<float, width, whole>(call, begin, end); });
}
void backward_float(const Call& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto width, auto whole) { backward<float, width, whole>(call, begin, end); });
}
// float64 is for checking gradients, not for speed: blocks of 4, whatever the width.
void forward_double(const Call& call, int64_t begin, int64_t end) { forward<double, 4, false>(call, begin, end); }
void backward_double(const Call& call, int64_t begin, int64_t end) { backward<double, 4, false>(call, begin, end); }

}  // namespace

extern const Kernels kernels = {forward_float, forward_double, backward_float, backward_double};

}  // namespace piip::PIIP_ISA
