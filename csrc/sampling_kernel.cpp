// Weighted bilinear samples at given points, for msda and dcnv3, and their gradients; one pass over the queries.
//
// A unit of work is one image and a group of neighbouring heads. It copies the group's maps into planes of its own, one per
// head, all levels after each other, with borders of zeros: neighbouring corners are then neighbours in memory, and every load
// is a whole vector without a test. The gradient of the value is summed beside them, by one thread in the order of the queries:
// no atomics, and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include <algorithm>
#include <vector>

#include "sampling.h"
#include "sampling_table.h"

namespace piip::PIIP_ISA {
namespace {

// One group of heads of one image.
struct Group {
  const SamplingCall& call;
  int64_t image, first_head, heads;
  Group(const SamplingCall& call, int64_t item)
      : call(call),
        image(item / call.groups_per_image()),
        first_head(item % call.groups_per_image() * call.heads_per_group),
        heads(std::min(call.heads_per_group, call.heads - first_head)) {}

  // visit(query's row, its column, place of the group's first head among all (image, query, head), that of a later query)
  template <class Visit>
  void for_each_query(Visit visit) const {
    constexpr int64_t kAhead = 12;
    const int64_t last = call.batch * call.queries() * call.heads - heads;
    int64_t place = image * call.queries() * call.heads + first_head;
    for (int64_t r = 0; r < call.query_rows; ++r)
      for (int64_t c = 0; c < call.query_columns; ++c, place += call.heads)
        visit(r, c, place, std::min(place + kAhead * call.heads, last));
  }

  // Asks for what a query will read, and for where it will write; `width` elements a head.
  template <class A, int kForWriting>
  [[gnu::always_inline]] void expect(const Array& array, int64_t place, int64_t width) const {
    prefetch<A, kForWriting>(array, place * width, heads * width);
  }

  // visit(the first head's pixel on its plane, its place in `array`, in channels)
  template <int kForWriting, class A, class Visit>
  void for_each_pixel(const Array& array, const Maps<A>& maps, Visit visit) const {
    constexpr int64_t kAhead = 16;
    const int64_t step = call.heads * call.channels, pixels = call.pixels();
    const int64_t last = (call.batch * pixels * call.heads - heads) * call.channels;
    int64_t place = (image * pixels * call.heads + first_head) * call.channels;
    for (const LevelLayout& level : maps.levels)
      for (int64_t y = 0; y < level.height; ++y)
        for (int64_t x = 0; x < level.width; ++x, place += step) {
          prefetch<A, kForWriting>(array, std::min(place + kAhead * step, last), heads * call.channels);
          visit(maps.data + level.start + y * level.row + x * maps.pixel, place);
        }
  }

  // Copies the value to the planes; clears the gradients beside it.
  template <class A, int W>
  void read_value(const Maps<A>& maps) const {
    const int64_t size = call.batch * call.pixels() * call.heads * call.channels;
    for_each_pixel<0>(call.value, maps, [&](A* pixel, int64_t place) {
      for (int64_t h = 0; h < heads; ++h, pixel += maps.plane, place += call.channels)
        for (int64_t block = 0; block < maps.channels; block += W) {
          read_channels<A, W>(call.value, place + block, std::min<int64_t>(W, call.channels - block), size).to(pixel + block);
          if (maps.pixel > maps.channels) Channels<A, W>{}.to(pixel + maps.channels + block);
        }
    });
  }

  template <class A, int W>
  void write_grad_value(const Maps<A>& maps, A* row) const {
    for_each_pixel<1>(call.grad_value, maps, [&](const A* pixel, int64_t place) {
      for (int64_t h = 0; h < heads; ++h, pixel += maps.plane)
        for (int64_t block = 0; block < maps.channels; block += W)
          Channels<A, W>::from(pixel + maps.channels + block).to(row + h * call.channels + block);
      write(call.grad_value, place, heads * call.channels, row);  // padding was overwritten by the next head
    });
  }
};

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
template <class A, int W, bool kWhole>
void forward(const SamplingCall& call, int64_t begin, int64_t end) {
  const Maps<A> maps(call, W, false);
  Table<A> table(call, maps);
  const int64_t channels = kWhole ? W : maps.channels;
  std::vector<A> result(call.heads_per_group * call.channels + channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.read_value<A, W>(maps);
    group.for_each_query([&](int64_t r, int64_t c, int64_t place, int64_t later) {
      group.expect<A, 0>(call.coordinates, later, 2 * table.points);
      group.expect<A, 0>(call.weights, later, table.points);
      group.expect<A, 1>(call.out, later, call.channels);
      table.template locate<false>(place * table.points, r, c);
      const A *w0 = table.weight[0].data(), *w1 = table.weight[1].data(), *w2 = table.weight[2].data(), *w3 = table.weight[3].data();
      const Int<A>*at = table.corner.data(), *row = table.row.data();
      const A* data = maps.data;
      for (int64_t h = 0; h < group.heads; ++h)
        for (int64_t block = 0; block < channels; block += W) {
          Channels<A, W> upper, lower;  // two sums, so that additions overlap
          for (int64_t i = h * table.points; i < (h + 1) * table.points; ++i) {
            const A *above = data + at[i] + block, *below = above + row[i];
            upper.add(w0[i], Channels<A, W>::from(above));
            upper.add(w1[i], Channels<A, W>::from(above + channels));
            lower.add(w2[i], Channels<A, W>::from(below));
            lower.add(w3[i], Channels<A, W>::from(below + channels));
          }
          upper.add(lower);
          upper.to(&result[h * call.channels + block]);  // padding is overwritten by the next head
        }
      write(call.out, place * call.channels, group.heads * call.channels, result.data());
    });
  }
}

template <class A, int W, bool kWhole>
void backward(const SamplingCall& call, int64_t begin, int64_t end) {
  const Maps<A> maps(call, W, true);
  Table<A> table(call, maps);
  const int64_t channels = kWhole ? W : maps.channels, pixel = 2 * channels;
  const int64_t size = call.batch * call.queries() * call.heads * call.channels;
  std::vector<A> row_of_heads(call.heads_per_group * call.channels + channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.read_value<A, W>(maps);
    group.for_each_query([&](int64_t r, int64_t c, int64_t place, int64_t later) {
      group.expect<A, 0>(call.coordinates, later, 2 * table.points);
      group.expect<A, 0>(call.weights, later, table.points);
      group.expect<A, 0>(call.grad_out, later, call.channels);
      group.expect<A, 1>(call.grad_coordinates, later, 2 * table.points);
      group.expect<A, 1>(call.grad_weights, later, table.points);
      table.template locate<true>(place * table.points, r, c);
      const A *w0 = table.weight[0].data(), *w1 = table.weight[1].data(), *w2 = table.weight[2].data(), *w3 = table.weight[3].data();
      const Int<A>*at = table.corner.data(), *row = table.row.data();
      A *dot = table.dot.data(), *data = maps.data;
      for (int64_t h = 0; h < group.heads; ++h)
        for (int64_t block = 0; block < channels; block += W) {
          const int64_t count = std::min<int64_t>(W, call.channels - block);
          const auto out = read_channels<A, W>(call.grad_out, (place + h) * call.channels + block, count, size);
          // The gradient behind a pixel's value grows; what the value says about that of its weight, to be summed up.
          const auto visit = [&](A* at_value, A weight) __attribute__((always_inline)) {
            auto sum = Channels<A, W>::from(at_value + channels);
            sum.add(weight, out);
            sum.to(at_value + channels);
            return Channels<A, W>::from(at_value).products(out);
          };
          for (int64_t i = h * table.points; i < (h + 1) * table.points; ++i) {
            A *above = data + at[i] + block, *below = above + row[i];
            const auto top_left = visit(above, w0[i]), top_right = visit(above + pixel, w1[i]);
            const auto bottom_left = visit(below, w2[i]), bottom_right = visit(below + pixel, w3[i]);
            const Vec<A, 4> dots = sums<A, Channels<A, W>::kLast>(top_left, top_right, bottom_left, bottom_right);
            store(dot + 4 * i, kWhole || block == 0 ? dots : load<Vec<A, 4>>(dot + 4 * i) + dots);
          }
        }
      table.write_gradients(place * table.points, group.heads);
    });
    group.write_grad_value<A, W>(maps, row_of_heads.data());
  }
}

// run(block, whole) with the block that sampling_block says; halves of it where 32 channels and their sums do not fit registers.
// Portable code has two forms only: it is to be there, and short to compile.
template <class Run>
void for_width(int64_t channels, Run run) {
  const int64_t block = sampling_block(channels);
  if constexpr (kVectorBytes > 16) {
    switch (block) {
      case 24: return run(std::integral_constant<int, 24>{}, std::true_type{});
      case 32:
        if constexpr (kLanes<float> >= 16) return run(std::integral_constant<int, 32>{}, std::true_type{});
        break;
      case 8: return run(std::integral_constant<int, 8>{}, std::true_type{});
      default:
        if (channels <= 16) return run(std::integral_constant<int, 16>{}, std::true_type{});
    }
  }
  if (block % 16) return run(std::integral_constant<int, 8>{}, std::false_type{});
  run(std::integral_constant<int, 16>{}, std::false_type{});
}

void forward_float(const SamplingCall& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto block, auto whole) { forward<float, block, whole>(call, begin, end); });
}
void backward_float(const SamplingCall& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto block, auto whole) { backward<float, block, whole>(call, begin, end); });
}

}  // namespace

extern const SamplingKernels sampling_kernels = {forward_float, backward_float};
#if !defined(__AVX2__)  // float64 is for checking gradients, not for speed: portable code only, blocks of 4 whatever the width
extern const SamplingKernels sampling_kernels_double = {forward<double, 4, false>, backward<double, 4, false>};
#endif

}  // namespace piip::PIIP_ISA
