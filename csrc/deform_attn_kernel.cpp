// Softmax, sampling locations and bilinear sampling of deformable attention in one pass over the queries, and its gradients.
//
// A unit of work is one image and a group of neighbouring heads. It first copies the group's maps into planes of its own, one
// per head, with a border of zeros and padded channels; they fit a core's L2 cache, and every load after that is a whole vector
// without a test. The gradient of the value is summed in such planes too, by one thread in the order of the queries: no atomics,
// and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include "deform_attn_kernel.h"

#include <algorithm>
#include <vector>

#include "vec.h"

namespace piip::PIIP_ISA {
namespace {

float from_bf16(uint16_t stored) {
  const uint32_t bits = uint32_t(stored) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return x == x ? uint16_t(rounded) : uint16_t(0x7fc0);                 // rounding up could turn a NaN into inf
}

// use(i, element start + i) for i in [0, count)
template <class A, class Use>
inline void read(const Array& array, int64_t start, int64_t count, Use use) {
  if (array.bf16) {
    const auto* from = static_cast<const uint16_t*>(array.data) + start;
    for (int64_t i = 0; i < count; ++i) use(i, A(from_bf16(from[i])));
  } else {
    const auto* from = static_cast<const A*>(array.data) + start;
    for (int64_t i = 0; i < count; ++i) use(i, from[i]);
  }
}

// element start + i = make(i) for i in [0, count)
template <class A, class Make>
inline void write(const Array& array, int64_t start, int64_t count, Make make) {
  if (array.bf16) {
    auto* to = static_cast<uint16_t*>(array.data) + start;
    for (int64_t i = 0; i < count; ++i) to[i] = to_bf16(float(make(i)));
  } else {
    auto* to = static_cast<A*>(array.data) + start;
    for (int64_t i = 0; i < count; ++i) to[i] = make(i);
  }
}

// The maps of a group of heads, each on a plane with a border.
template <class A>
struct Planes {
  int64_t channels, row, plane;  // elements per pixel, per row, per head
  std::vector<A> data;

  explicit Planes(const Call& call)
      : channels(padded_channels(call.channels)),
        row(channels * (call.value_width + 2 * kBorder)),
        plane(row * (call.value_height + 2 * kBorder)),
        data(plane * call.heads_per_group) {}

  A* pixel(int64_t head, int64_t y, int64_t x) {
    return data.data() + head * plane + (y + kBorder) * row + (x + kBorder) * channels;
  }
};

// visit(element in the tensor, pixel on the plane), for each pixel of each head of the group
template <class A, class Visit>
void for_each_pixel(const Call& call, int64_t image, int64_t first_head, int64_t heads, Planes<A>& planes, Visit visit) {
  for (int64_t y = 0; y < call.value_height; ++y)
    for (int64_t x = 0; x < call.value_width; ++x) {
      const int64_t pixel = (image * call.value_height + y) * call.value_width + x;
      for (int64_t h = 0; h < heads; ++h) visit((pixel * call.heads + first_head + h) * call.channels, planes.pixel(h, y, x));
    }
}

// The points of one query, for the heads of a group: index h * points + p.
template <class A>
struct Points {
  using V = Vec<A, kLanes<A>>;
  using I = Vec<Int<A>, kLanes<A>>;
  const Call& call;
  int64_t count, padded;                     // entries in use; and rounded up to whole vectors
  std::vector<A> x, y;                       // offsets as given; then the location's fraction of a pixel
  std::vector<A> attention;                  // logits as given; then their softmax over a head's points
  std::vector<A> weight[4];                  // attention * bilinear, of the corners top left, top right, bottom left and right
  std::vector<A> dot[4];                     // backward: output gradient . corner
  std::vector<Int<A>> corner, head_start;    // top left corner and start of the head, in the planes
  std::vector<A> x_reference, y_reference;   // reference point of each column and row of queries, in value pixels, minus 0.5

  Points(const Call& call, const Planes<A>& planes)
      : call(call),
        count(call.heads_per_group * call.points),
        padded((count + kLanes<A> - 1) / kLanes<A> * kLanes<A>),
        x(padded), y(padded), attention(padded), corner(padded), head_start(padded),
        x_reference(call.query_width), y_reference(call.query_height) {
    for (auto& w : weight) w.resize(padded);
    for (auto& d : dot) d.resize(padded);
    for (int64_t i = 0; i < count; ++i) head_start[i] = Int<A>(i / call.points * planes.plane);
    for (int64_t c = 0; c < call.query_width; ++c) x_reference[c] = A((c + 0.5) / call.query_width * call.value_width - 0.5);
    for (int64_t r = 0; r < call.query_height; ++r) y_reference[r] = A((r + 0.5) / call.query_height * call.value_height - 0.5);
  }

  void softmax(int64_t heads) {
    const int64_t points = call.points;
    for (int64_t h = 0; h < heads; ++h) {
      A* a = attention.data() + h * points;
      A most = a[0];
      for (int64_t p = 1; p < points; ++p) most = a[p] > most ? a[p] : most;
      for (int64_t p = 0; p < points; ++p) a[p] -= most;
    }
    for (int64_t i = 0; i < padded; i += kLanes<A>) store(&attention[i], exp_nonpositive(load<V>(&attention[i])));
    for (int64_t h = 0; h < heads; ++h) {
      A* a = attention.data() + h * points;
      A sum = a[0];
      for (int64_t p = 1; p < points; ++p) sum += a[p];
      const A scale = 1 / sum;
      for (int64_t p = 0; p < points; ++p) a[p] *= scale;
    }
  }

  // Integer part of a coordinate, from -kBorder to size; `coordinate` becomes its fraction.
  static I split(V& coordinate, A size) {
    const V lost = coordinate - coordinate;  // 0, or NaN where the coordinate is not finite: such a point gives NaN
    V c = coordinate > A(-kBorder) ? coordinate : V{} - A(kBorder);  // NaN too: the conversion to an integer is always in range
    c = c < size ? c : V{} + size;
    I whole = __builtin_convertvector(c, I);
    whole += __builtin_convertvector(whole, V) > c;  // truncated towards zero so far; a true comparison is -1
    coordinate = c - __builtin_convertvector(whole, V) + lost;
    return whole;
  }

  // Reads one query's offsets and logits; fills attention, fractions, corners and weights.
  void locate(int64_t image, int64_t r, int64_t c, int64_t first_head, int64_t heads, const Planes<A>& planes) {
    const int64_t query = (image * call.query_height + r) * call.query_width + c;
    const int64_t start = (query * call.heads + first_head) * call.points;
    const int64_t used = heads * call.points;
    read<A>(call.logits, start, used, [&](int64_t i, A logit) { attention[i] = logit; });
    read_pairs(call.offsets, start, used);
    softmax(heads);
    for (int64_t i = 0; i < padded; i += kLanes<A>) {
      V fx = load<V>(&x[i]) + x_reference[c], fy = load<V>(&y[i]) + y_reference[r];
      const I column = split(fx, A(call.value_width)) + kBorder, line = split(fy, A(call.value_height)) + kBorder;
      store(&corner[i], load<I>(&head_start[i]) + line * Int<A>(planes.row) + column * Int<A>(planes.channels));
      const V a = load<V>(&attention[i]), below = a * fy, above = a - below;
      const V top_right = above * fx, bottom_right = below * fx;
      store(&weight[0][i], above - top_right);
      store(&weight[1][i], top_right);
      store(&weight[2][i], below - bottom_right);
      store(&weight[3][i], bottom_right);
      store(&x[i], fx);
      store(&y[i], fy);
    }
  }

  void read_pairs(const Array& offsets, int64_t start, int64_t used) {
    if (offsets.bf16) {
      const auto* from = static_cast<const uint16_t*>(offsets.data) + 2 * start;
      for (int64_t i = 0; i < used; ++i) x[i] = from_bf16(from[2 * i]), y[i] = from_bf16(from[2 * i + 1]);
    } else {
      const auto* from = static_cast<const A*>(offsets.data) + 2 * start;
      for (int64_t i = 0; i < used; ++i) x[i] = from[2 * i], y[i] = from[2 * i + 1];
    }
  }
};

// One group of heads of one image.
struct Group {
  int64_t image, first_head, heads;
  Group(const Call& call, int64_t item)
      : image(item / call.groups_per_image()),
        first_head(item % call.groups_per_image() * call.heads_per_group),
        heads(std::min(call.heads_per_group, call.heads - first_head)) {}
};

template <class A>
void copy_value(const Call& call, const Group& group, Planes<A>& planes) {
  for_each_pixel(call, group.image, group.first_head, group.heads, planes, [&](int64_t from, A* to) {
    read<A>(call.value, from, call.channels, [&](int64_t c, A element) { to[c] = element; });
  });
}

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
template <class A, int W, bool kWhole>
void forward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call);
  Points<A> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  std::vector<A> result(channels * call.heads_per_group);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    copy_value(call, group, value);
    for (int64_t r = 0; r < call.query_height; ++r)
      for (int64_t c = 0; c < call.query_width; ++c) {
        points.locate(group.image, r, c, group.first_head, group.heads, value);
        for (int64_t h = 0; h < group.heads; ++h)
          for (int64_t block = 0; block < channels; block += W) {
            Channels<A, W> upper, lower;  // two sums, so that additions overlap
            for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
              const A* at = value.data.data() + points.corner[i] + block;
              upper.add(points.weight[0][i], Channels<A, W>::from(at));
              upper.add(points.weight[1][i], Channels<A, W>::from(at + channels));
              lower.add(points.weight[2][i], Channels<A, W>::from(at + row));
              lower.add(points.weight[3][i], Channels<A, W>::from(at + row + channels));
            }
            upper.add(lower);
            upper.to(&result[h * channels + block]);
          }
        const int64_t query = (group.image * call.query_height + r) * call.query_width + c;
        for (int64_t h = 0; h < group.heads; ++h)
          write<A>(call.out, (query * call.heads + group.first_head + h) * call.channels, call.channels,
                   [&](int64_t d) { return result[h * channels + d]; });
      }
  }
}

// From the dot products of the corners to the gradients of one query's offsets and logits.
template <class A>
void point_gradients(const Call& call, const Group& group, int64_t query, Points<A>& points) {
  using V = typename Points<A>::V;
  for (int64_t i = 0; i < points.padded; i += kLanes<A>) {
    const V fx = load<V>(&points.x[i]), fy = load<V>(&points.y[i]), a = load<V>(&points.attention[i]);
    const V d0 = load<V>(&points.dot[0][i]), d1 = load<V>(&points.dot[1][i]);
    const V d2 = load<V>(&points.dot[2][i]), d3 = load<V>(&points.dot[3][i]);
    const V top = d0 + fx * (d1 - d0), bottom = d2 + fx * (d3 - d2);
    store(&points.weight[0][i], top + fy * (bottom - top));                  // of the attention weight
    store(&points.x[i], a * ((d1 - d0) + fy * ((d3 - d2) - (d1 - d0))));     // of the offset
    store(&points.y[i], a * (bottom - top));
  }
  const int64_t start = (query * call.heads + group.first_head) * call.points;
  for (int64_t h = 0; h < group.heads; ++h) {
    const A* a = &points.attention[h * call.points];
    const A* gradient = &points.weight[0][h * call.points];
    A mean = 0;
    for (int64_t p = 0; p < call.points; ++p) mean += a[p] * gradient[p];
    write<A>(call.grad_logits, start + h * call.points, call.points, [&](int64_t p) { return a[p] * (gradient[p] - mean); });
  }
  write<A>(call.grad_offsets, 2 * start, 2 * group.heads * call.points,
           [&](int64_t i) { return i % 2 ? points.y[i / 2] : points.x[i / 2]; });
}

template <class A, int W, bool kWhole>
void backward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call), gradient(call);
  Points<A> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  std::vector<A> grad_out(channels * call.heads_per_group);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    copy_value(call, group, value);
    std::fill(gradient.data.begin(), gradient.data.end(), A(0));
    for (int64_t r = 0; r < call.query_height; ++r)
      for (int64_t c = 0; c < call.query_width; ++c) {
        const int64_t query = (group.image * call.query_height + r) * call.query_width + c;
        points.locate(group.image, r, c, group.first_head, group.heads, value);
        for (int64_t h = 0; h < group.heads; ++h)
          read<A>(call.grad_out, (query * call.heads + group.first_head + h) * call.channels, call.channels,
                  [&](int64_t d, A element) { grad_out[h * channels + d] = element; });
        for (int64_t h = 0; h < group.heads; ++h)
          for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
            Vec<A, 4> dots{};
            for (int64_t block = 0; block < channels; block += W) {
              const auto out = Channels<A, W>::from(&grad_out[h * channels + block]);
              Vec<A, 4> partial[4];
              for (int corner = 0; corner < 4; ++corner) {
                const int64_t at = points.corner[i] + block + (corner & 1 ? channels : 0) + (corner & 2 ? row : 0);
                partial[corner] = Channels<A, W>::from(&value.data[at]).dot(out);
                auto sum = Channels<A, W>::from(&gradient.data[at]);
                sum.add(points.weight[corner][i], out);
                sum.to(&gradient.data[at]);
              }
              dots += sums<A>(partial[0], partial[1], partial[2], partial[3]);
            }
            for (int corner = 0; corner < 4; ++corner) points.dot[corner][i] = dots[corner];
          }
        point_gradients(call, group, query, points);
      }
    for_each_pixel(call, group.image, group.first_head, group.heads, gradient, [&](int64_t to, const A* from) {
      write<A>(call.grad_value, to, call.channels, [&](int64_t c) { return from[c]; });
    });
  }
}

// The widths worth a loop of their own: heads of PIIP have 4 to 32 channels.
template <class Run>
void for_width(int64_t channels, Run run) {
  switch (padded_channels(channels)) {
    case 4: return run(std::integral_constant<int, 4>{}, std::true_type{});
    case 8: return run(std::integral_constant<int, 8>{}, std::true_type{});
    case 12: return run(std::integral_constant<int, 12>{}, std::true_type{});
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
