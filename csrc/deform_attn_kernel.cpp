// Softmax, sampling locations and bilinear sampling of deformable attention in one pass over the queries, and its gradients.
//
// A unit of work is one image and a group of neighbouring heads. It first copies the group's maps into planes of its own, one
// per head, with a border of zeros and padded channels: neighbouring corners are then neighbours in memory, and every load is a
// whole vector without a test. The gradient of the value is summed in such planes too, by one thread in the order of the
// queries: no atomics, and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include "deform_attn_kernel.h"

#include <algorithm>
#include <vector>

#include "vec.h"

namespace piip::PIIP_ISA {
namespace {

// An element, or a vector of them, from the upper halves of float32 to float32 and back.
template <class F, class U32, class U16>
inline F from_bf16(U16 stored) {
  U32 bits;
  if constexpr (std::is_same_v<U32, uint32_t>) bits = stored;
  else bits = __builtin_convertvector(stored, U32);
  bits <<= 16;
  F x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return x == x ? uint16_t(rounded) : uint16_t(0x7fc0);                 // rounding up could turn a NaN into inf
}

// `count` elements from or to a tensor. Usual: the count nearly all calls have, for which the compiler unrolls.
template <class A, int kUsual>
inline void read(const Array& array, int64_t start, int64_t count, A* __restrict to) {
  const auto copy = [&](const auto* __restrict from, int64_t n, auto convert) {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(from[i]);
  };
  const auto both = [&](int64_t n) {
    const auto widen = [](uint16_t e) { return A(from_bf16<float, uint32_t>(e)); };
    if (array.bf16) copy(static_cast<const uint16_t*>(array.data) + start, n, widen);
    else copy(static_cast<const A*>(array.data) + start, n, [](A e) { return e; });
  };
  count == kUsual ? both(kUsual) : both(count);
}

template <class A, int kUsual>
inline void write(const Array& array, int64_t start, int64_t count, const A* __restrict from) {
  const auto copy = [&](auto* __restrict to, int64_t n, auto convert) {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(from[i]);
  };
  const auto both = [&](int64_t n) {
    if (array.bf16) copy(static_cast<uint16_t*>(array.data) + start, n, [](A e) { return to_bf16(float(e)); });
    else copy(static_cast<A*>(array.data) + start, n, [](A e) { return e; });
  };
  count == kUsual ? both(kUsual) : both(count);
}

// A vector of elements; zeros past the end of the tensor.
template <class A>
inline Vec<A, kLanes<A>> read_lanes(const Array& array, int64_t start, int64_t size) {
  constexpr int L = kLanes<A>;
  if (start + L <= size) {
    if constexpr (std::is_same_v<A, float>) {
      using U16 = Vec<uint16_t, L>;
      if (array.bf16) return from_bf16<Vec<A, L>, Vec<uint32_t, L>>(load<U16>(static_cast<const uint16_t*>(array.data) + start));
    }
    return load<Vec<A, L>>(static_cast<const A*>(array.data) + start);
  }
  A last[L] = {};
  read<A, 0>(array, start, std::max<int64_t>(0, size - start), last);
  return load<Vec<A, L>>(last);
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

// The points of one query, for the heads of a group: entry h * points + p. Entries come in whole vectors; what is past the
// group's last head belongs to other heads, or to nobody, and is not used.
template <class A>
struct Points {
  static constexpr int L = kLanes<A>;
  using V = Vec<A, L>;
  using I = Vec<Int<A>, L>;
  const Call& call;
  const Planes<A>& planes;
  int64_t size;                             // entries of the whole tensor of logits
  int64_t padded;                           // entries here
  bool in_lanes;                            // a head's points are neighbouring lanes of one vector
  std::vector<A> attention;                 // softmax of the logits over a head's points
  std::vector<A> weight[4];                 // attention * bilinear, of the corners top left, top right, bottom left and right
  std::vector<A> x, y;                      // the location's fraction of a pixel
  std::vector<A> dot;                       // backward: output gradient . corner, four for each point
  std::vector<Int<A>> corner, head_start;   // top left corner, and start of the head, in the planes
  std::vector<A> x_reference, y_reference;  // reference point of each column and row of queries, in value pixels, minus 0.5

  Points(const Call& call, const Planes<A>& planes)
      : call(call),
        planes(planes),
        size(call.batch * call.query_height * call.query_width * call.heads * call.points),
        padded((call.heads_per_group * call.points + L - 1) / L * L),
        in_lanes(call.points <= L && (call.points & (call.points - 1)) == 0),
        attention(padded), x(padded), y(padded), dot(4 * padded), corner(padded), head_start(padded),
        x_reference(call.query_width), y_reference(call.query_height) {
    for (auto& w : weight) w.resize(padded);
    for (int64_t i = 0; i < call.heads_per_group * call.points; ++i) head_start[i] = Int<A>(i / call.points * planes.plane);
    for (int64_t c = 0; c < call.query_width; ++c) x_reference[c] = A((c + 0.5) / call.query_width * call.value_width - 0.5);
    for (int64_t r = 0; r < call.query_height; ++r) y_reference[r] = A((r + 0.5) / call.query_height * call.value_height - 0.5);
  }

  // Every lane gets what `combine` makes of all points of its head: neighbours exchange, then neighbouring pairs, and so on.
  template <class Combine>
  V over_points(V v, Combine combine) const {
    for (int step = 1; step < call.points; step *= 2) v = combine(v, __builtin_shuffle(v, lanes<A>(0, 1) ^ Int<A>(step)));
    return v;
  }
  V sum_over_points(V v) const {
    return over_points(v, [](V a, V b) { return a + b; });
  }

  V softmax(V logit) const {
    const V e = exp_nonpositive(V(logit - over_points(logit, [](V a, V b) { return a > b ? a : b; })));
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

  // Reads one query's offsets and logits; fills everything but `dot`. `start`: the first entry in the tensor of logits.
  void locate(int64_t start, int64_t r, int64_t c, int64_t heads) {
    if (!in_lanes) {
      read<A, 0>(call.logits, start, heads * call.points, attention.data());
      softmax_by_head(heads);
    }
    for (int64_t i = 0; i < padded; i += L) {
      const V a = in_lanes ? softmax(read_lanes<A>(call.logits, start + i, size)) : load<V>(&attention[i]);
      const V pairs = read_lanes<A>(call.offsets, 2 * (start + i), 2 * size);
      const V more = read_lanes<A>(call.offsets, 2 * (start + i) + L, 2 * size);
      V fx = __builtin_shuffle(pairs, more, lanes<A>(0, 2)) + x_reference[c];
      V fy = __builtin_shuffle(pairs, more, lanes<A>(1, 2)) + y_reference[r];
      const I column = split(fx, A(call.value_width)) + kBorder, line = split(fy, A(call.value_height)) + kBorder;
      store(&corner[i], load<I>(&head_start[i]) + line * Int<A>(planes.row) + column * Int<A>(planes.channels));
      const V below = a * fy, above = a - below, top_right = above * fx, bottom_right = below * fx;
      store(&weight[0][i], above - top_right);
      store(&weight[1][i], top_right);
      store(&weight[2][i], below - bottom_right);
      store(&weight[3][i], bottom_right);
      store(&attention[i], a);
      store(&x[i], fx);
      store(&y[i], fy);
    }
  }

  // From `dot` to the gradients of one query's offsets and logits.
  void write_gradients(int64_t start, int64_t heads) {
    const int64_t used = heads * call.points;
    for (int64_t i = 0; i < padded; i += L) {
      const V fx = load<V>(&x[i]), fy = load<V>(&y[i]), a = load<V>(&attention[i]);
      V d0, d1, d2, d3;
      for (int l = 0; l < L; ++l) {
        const A* d = &dot[4 * (i + l)];
        d0[l] = d[0], d1[l] = d[1], d2[l] = d[2], d3[l] = d[3];
      }
      const V top = d0 + fx * (d1 - d0), bottom = d2 + fx * (d3 - d2);
      const V of_attention = top + fy * (bottom - top);
      const V of_x = a * ((d1 - d0) + fy * ((d3 - d2) - (d1 - d0))), of_y = a * (bottom - top);
      const int64_t count = std::min<int64_t>(L, used - i);
      A pairs[2 * L];
      const I low = lanes<A>(0, 1) / 2 + (lanes<A>(0, 1) % 2) * Int<A>(L);  // x0 y0 x1 y1 ...
      store(pairs, __builtin_shuffle(of_x, of_y, low));
      store(pairs + L, __builtin_shuffle(of_x, of_y, low + Int<A>(L / 2)));
      write<A, 2 * L>(call.grad_offsets, 2 * (start + i), 2 * count, pairs);
      if (in_lanes) {
        A logits[L];
        store(logits, V(a * (of_attention - sum_over_points(a * of_attention))));
        write<A, L>(call.grad_logits, start + i, count, logits);
      } else {
        store(&weight[0][i], of_attention);
      }
    }
    if (!in_lanes) softmax_gradient_by_head(start, heads);
  }

  void softmax_gradient_by_head(int64_t start, int64_t heads) {
    for (int64_t h = 0; h < heads; ++h) {
      const A* a = &attention[h * call.points];
      A* gradient = &weight[0][h * call.points];
      A mean = 0;
      for (int64_t p = 0; p < call.points; ++p) mean += a[p] * gradient[p];
      for (int64_t p = 0; p < call.points; ++p) gradient[p] = a[p] * (gradient[p] - mean);
    }
    write<A, 0>(call.grad_logits, start, heads * call.points, weight[0].data());
  }
};

// One group of heads of one image.
struct Group {
  const Call& call;
  int64_t image, first_head, heads;
  Group(const Call& call, int64_t item)
      : call(call),
        image(item / call.groups_per_image()),
        first_head(item % call.groups_per_image() * call.heads_per_group),
        heads(std::min(call.heads_per_group, call.heads - first_head)) {}

  // Of the group's first head at a query: its place among all (image, query, head).
  int64_t at_query(int64_t r, int64_t c) const {
    return ((image * call.query_height + r) * call.query_width + c) * call.heads + first_head;
  }

  // visit(place of a head's pixel in the value, in channels; its place on the plane)
  template <class A, class Visit>
  void for_each_pixel(Planes<A>& planes, Visit visit) const {
    for (int64_t y = 0; y < call.value_height; ++y)
      for (int64_t x = 0; x < call.value_width; ++x) {
        const int64_t pixel = (image * call.value_height + y) * call.value_width + x;
        for (int64_t h = 0; h < heads; ++h) visit((pixel * call.heads + first_head + h) * call.channels, planes.pixel(h, y, x));
      }
  }
};

// Blocks of W channels; kWhole where one block is the whole pixel, so that the compiler knows the distance between pixels.
template <class A, int W, bool kWhole>
void forward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call);
  Points<A> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  std::vector<A> result(channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.for_each_pixel(value, [&](int64_t at, A* pixel) { read<A, W>(call.value, at, call.channels, pixel); });
    for (int64_t r = 0; r < call.query_height; ++r)
      for (int64_t c = 0; c < call.query_width; ++c) {
        const int64_t place = group.at_query(r, c);
        points.locate(place * call.points, r, c, group.heads);
        for (int64_t h = 0; h < group.heads; ++h) {
          for (int64_t block = 0; block < channels; block += W) {
            Channels<A, W> upper, lower;  // two sums, so that additions overlap
            for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
              const A* corner = &value.data[points.corner[i] + block];
              upper.add(points.weight[0][i], Channels<A, W>::from(corner));
              upper.add(points.weight[1][i], Channels<A, W>::from(corner + channels));
              lower.add(points.weight[2][i], Channels<A, W>::from(corner + row));
              lower.add(points.weight[3][i], Channels<A, W>::from(corner + row + channels));
            }
            upper.add(lower);
            upper.to(&result[block]);
          }
          write<A, W>(call.out, (place + h) * call.channels, call.channels, result.data());
        }
      }
  }
}

template <class A, int W, bool kWhole>
void backward(const Call& call, int64_t begin, int64_t end) {
  Planes<A> value(call), gradient(call);
  Points<A> points(call, value);
  const int64_t channels = kWhole ? W : value.channels, row = value.row;
  std::vector<A> grad_out(channels);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.for_each_pixel(value, [&](int64_t at, A* pixel) { read<A, W>(call.value, at, call.channels, pixel); });
    std::fill(gradient.data.begin(), gradient.data.end(), A(0));
    for (int64_t r = 0; r < call.query_height; ++r)
      for (int64_t c = 0; c < call.query_width; ++c) {
        const int64_t place = group.at_query(r, c);
        points.locate(place * call.points, r, c, group.heads);
        for (int64_t h = 0; h < group.heads; ++h) {
          read<A, W>(call.grad_out, (place + h) * call.channels, call.channels, grad_out.data());
          for (int64_t i = h * call.points; i < (h + 1) * call.points; ++i) {
            Vec<A, 4> dots{};
            for (int64_t block = 0; block < channels; block += W) {
              const auto out = Channels<A, W>::from(&grad_out[block]);
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
            store(&points.dot[4 * i], dots);
          }
        }
        points.write_gradients(place * call.points, group.heads);
      }
    group.for_each_pixel(gradient, [&](int64_t at, const A* pixel) { write<A, W>(call.grad_value, at, call.channels, pixel); });
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
