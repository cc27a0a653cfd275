// The unit of work: the walk over its queries and pixels, and what of tensors it reads and writes on the way.
#pragma once
#include "planes.h"

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

}  // namespace
}  // namespace piip::PIIP_ISA
