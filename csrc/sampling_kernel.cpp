// Weighted bilinear samples at given points, for msda and dcnv3, and their gradients; one pass over the queries.
//
// A unit of work is one image and a group of neighbouring heads. It copies the group's maps into planes of its own, one per
// head, all levels after each other, with borders of zeros: neighbouring corners are then neighbours in memory, and every load
// is a whole vector without a test. The gradient of the value is summed in such planes too, by one thread in the order of the
// queries: no atomics, and the same bits for any number of threads.
//
// This file is compiled once per instruction set; PIIP_ISA is its namespace.
#include <algorithm>
#include <utility>
#include <vector>

#include "array_io.h"
#include "sampling.h"
#include "vec.h"

namespace piip::PIIP_ISA {
namespace {

// Memory for planes, aligned to cache lines. Each thread keeps two (value, gradient) from call to call, because fresh pages
// would cost as much as the arithmetic of a small map; what is over 32 MB goes back at once.
template <class A>
class Plane {
 public:
  explicit Plane(int64_t size) : kept_(spare().empty() ? Bytes{} : std::move(spare().back())) {
    if (!spare().empty()) spare().pop_back();
    const size_t lines = (size * sizeof(A) + 2 * kAlign - 1) / kAlign;
    if (kept_.size() < lines) kept_ = Bytes(lines);
    data_ = reinterpret_cast<A*>((reinterpret_cast<uintptr_t>(kept_.data()) + kAlign - 1) / kAlign * kAlign);
  }
  ~Plane() {
    if (kept_.size() * kAlign <= (size_t(32) << 20)) spare().push_back(std::move(kept_));
  }
  Plane(const Plane&) = delete;
  A* data() const { return data_; }

 private:
  static constexpr size_t kAlign = 64;
  struct Line {
    Line() {}  // not zeroed
    char bytes[kAlign];
  };
  using Bytes = std::vector<Line>;
  static std::vector<Bytes>& spare() {
    thread_local std::vector<Bytes> lists;
    return lists;
  }
  Bytes kept_;
  A* data_;
};

// Where a level's pixels are on a plane, in elements.
struct LevelLayout {
  int64_t height, width, start, row;  // start: of pixel (0, 0), behind the border
};

// The maps of a group of heads. Blocks of W channels; C: the number of channels where it is known when compiling, or 0.
template <class A, int W, int C>
struct Planes {
  int64_t channels, plane, heads;  // elements per pixel (padded) and per head
  std::vector<LevelLayout> levels;
  Plane<A> memory;

  explicit Planes(const SamplingCall& call)
      : channels((call.channels + W - 1) / W * W), plane(0), heads(call.heads_per_group), levels(layout(call)),
        memory(plane * heads) {}

  A* data() const { return memory.data(); }
  void zero() { std::fill_n(data(), plane * heads, A(0)); }

  // All that `fill` leaves alone: the borders, and channels that are padding.
  void zero_around() {
    if (C != W) return zero();
    for (int64_t h = 0; h < heads; ++h)
      for (const LevelLayout& level : levels) {
        A* end = data() + h * plane + level.start - kSamplingBorder * (level.row + channels);
        const auto zeros = [&](int64_t count) { end = std::fill_n(end, count, A(0)); };
        zeros(kSamplingBorder * (level.row + channels));
        for (int64_t y = 0; y < level.height; ++y, zeros(2 * kSamplingBorder * channels)) end += level.width * channels;
        zeros(kSamplingBorder * (level.row - channels));
      }
  }

 private:
  std::vector<LevelLayout> layout(const SamplingCall& call) {
    std::vector<LevelLayout> levels;
    for (const Level& level : call.levels) {
      const int64_t row = channels * (level.width + 2 * kSamplingBorder);
      levels.push_back({level.height, level.width, plane + kSamplingBorder * (row + channels), row});
      plane += row * (level.height + 2 * kSamplingBorder);
    }
    return levels;
  }
};

// The points of one query, for the heads of a group: entry h * points + k. Entries come in whole vectors; what is past the
// group's last head belongs to other heads, or to nobody, and is not used.
template <class A>
struct Table {
  static constexpr int L = kLanes<A>;
  using V = Vec<A, L>;
  using I = Vec<Int<A>, L>;
  const SamplingCall& call;
  int64_t points, size, padded;  // points of a head; entries of the whole tensor of weights; entries here
  // The same for all queries: how coordinates are read, the size of the map, its row and its start in the planes.
  std::vector<A> scale_x, scale_y, shift_x, shift_y, width, height;
  std::vector<Int<A>> row, start;
  // Of one query: the top left corner in the planes, weight * bilinear of (top left, top right) and (bottom left, bottom right).
  std::vector<Int<A>> corner;
  std::vector<A> top, bottom;
  // For the backward pass: the weight, the location's fraction of a pixel, and output gradient . corner, four for each point.
  std::vector<A> weight, fraction_x, fraction_y, dot;

  template <class P>
  Table(const SamplingCall& call, const P& planes)
      : call(call), points(call.points.size()), size(call.batch * call.queries() * call.heads * points),
        padded((call.heads_per_group * points + L - 1) / L * L),
        scale_x(padded), scale_y(padded), shift_x(padded), shift_y(padded), width(padded), height(padded),
        row(padded), start(padded), corner(padded), top(2 * padded), bottom(2 * padded),
        weight(padded), fraction_x(padded), fraction_y(padded), dot(4 * padded) {
    for (int64_t i = 0; i < call.heads_per_group * points; ++i) {
      const Point& point = call.points[i % points];
      const LevelLayout& level = planes.levels[point.level];
      scale_x[i] = A(point.scale_x), scale_y[i] = A(point.scale_y), shift_x[i] = A(point.shift_x), shift_y[i] = A(point.shift_y);
      width[i] = A(level.width), height[i] = A(level.height);
      row[i] = Int<A>(level.row), start[i] = Int<A>(i / points * planes.plane + level.start);
    }
  }

  // Integer part of a coordinate, from -2 to size; `coordinate` becomes its fraction.
  static I split(V& coordinate, V size) {
    const V lost = coordinate - coordinate;  // 0, or NaN where the coordinate is not finite: such a point gives NaN
    V c = coordinate > A(-kSamplingBorder) ? coordinate : V{} - A(kSamplingBorder);  // NaN too: always in an integer's range
    c = c < size ? c : size;
    I whole = __builtin_convertvector(c, I);
    whole += __builtin_convertvector(whole, V) > c;  // truncated towards zero so far; a true comparison is -1
    coordinate = c - __builtin_convertvector(whole, V) + lost;
    return whole;
  }

  // Reads one query's coordinates and weights. `first`: its first entry in the tensor of weights.
  template <bool kBackward>
  void locate(int64_t first, int64_t query_row, int64_t query_column, Int<A> channels) {
    const A left = A(call.step * query_column), above = A(call.step * query_row);
    for (int64_t i = 0; i < padded; i += L) {
      const V a = read_lanes<A>(call.weights, first + i, size);
      const V pairs = read_lanes<A>(call.coordinates, 2 * (first + i), 2 * size);
      const V more = read_lanes<A>(call.coordinates, 2 * (first + i) + L, 2 * size);
      V x = __builtin_shuffle(pairs, more, lanes<A>(0, 2)) * load<V>(&scale_x[i]) + (load<V>(&shift_x[i]) + left);
      V y = __builtin_shuffle(pairs, more, lanes<A>(1, 2)) * load<V>(&scale_y[i]) + (load<V>(&shift_y[i]) + above);
      const I column = split(x, load<V>(&width[i])), line = split(y, load<V>(&height[i]));
      store(&corner[i], load<I>(&start[i]) + line * load<I>(&row[i]) + column * channels);
      const V low = a * y, high = a - low, top_right = high * x, bottom_right = low * x;
      store_pairs(&top[2 * i], V(high - top_right), top_right);
      store_pairs(&bottom[2 * i], V(low - bottom_right), bottom_right);
      if (kBackward) {
        store(&weight[i], a);
        store(&fraction_x[i], x);
        store(&fraction_y[i], y);
      }
    }
  }

  // From `dot` to the gradients of one query's coordinates and weights.
  void write_gradients(int64_t first, int64_t heads) {
    for (int64_t i = 0; i < heads * points; i += L) {
      V d[4];
      corners_of_points(&dot[4 * i], d);
      const V x = load<V>(&fraction_x[i]), y = load<V>(&fraction_y[i]), a = load<V>(&weight[i]);
      const V upper = d[0] + x * (d[1] - d[0]), lower = d[2] + x * (d[3] - d[2]);
      const V of_x = a * ((d[1] - d[0]) + y * ((d[3] - d[2]) - (d[1] - d[0]))), of_y = a * (lower - upper);
      const int64_t count = std::min<int64_t>(L, heads * points - i);
      A pairs[2 * L], weights[L];
      store_pairs(pairs, V(of_x * load<V>(&scale_x[i])), V(of_y * load<V>(&scale_y[i])));
      store(weights, V(upper + y * (lower - upper)));
      write<A, 2 * L>(call.grad_coordinates, 2 * (first + i), 2 * count, pairs);
      write<A, L>(call.grad_weights, first + i, count, weights);
    }
  }

 private:
  // x0 y0 x1 y1 ...
  static void store_pairs(A* to, V x, V y) {
    const I low = lanes<A>(0, 1) / 2 + (lanes<A>(0, 1) % 2) * Int<A>(L);
    store(to, __builtin_shuffle(x, y, low));
    store(to + L, __builtin_shuffle(x, y, low + Int<A>(L / 2)));
  }

  // The dots of L points, four neighbours each, to one vector for each corner.
  static void corners_of_points(const A* dots, V* d) {
    const I even = lanes<A>(0, 2), odd = lanes<A>(1, 2);
    const V v0 = load<V>(dots), v1 = load<V>(dots + L), v2 = load<V>(dots + 2 * L), v3 = load<V>(dots + 3 * L);
    const V low_02 = __builtin_shuffle(v0, v1, even), low_13 = __builtin_shuffle(v0, v1, odd);
    const V high_02 = __builtin_shuffle(v2, v3, even), high_13 = __builtin_shuffle(v2, v3, odd);
    d[0] = __builtin_shuffle(low_02, high_02, even), d[2] = __builtin_shuffle(low_02, high_02, odd);
    d[1] = __builtin_shuffle(low_13, high_13, even), d[3] = __builtin_shuffle(low_13, high_13, odd);
  }
};

// One group of heads of one image.
struct Group {
  const SamplingCall& call;
  int64_t image, first_head, heads;
  Group(const SamplingCall& call, int64_t item)
      : call(call),
        image(item / call.groups_per_image()),
        first_head(item % call.groups_per_image() * call.heads_per_group),
        heads(std::min(call.heads_per_group, call.heads - first_head)) {}

  // visit(query's row, its column, place of the group's first head among all (image, query, head))
  template <class Visit>
  void for_each_query(Visit visit) const {
    int64_t place = image * call.queries() * call.heads + first_head;
    for (int64_t r = 0; r < call.query_rows; ++r)
      for (int64_t c = 0; c < call.query_columns; ++c, place += call.heads) visit(r, c, place);
  }

  // visit(place of a head's pixel in the value, in channels; its place on the plane)
  template <class P, class Visit>
  void for_each_pixel(const P& planes, Visit visit) const {
    int64_t pixels = 0;
    for (const LevelLayout& level : planes.levels) pixels += level.height * level.width;
    int64_t at = (image * pixels * call.heads + first_head) * call.channels;
    for (const LevelLayout& level : planes.levels)
      for (int64_t y = 0; y < level.height; ++y)
        for (int64_t x = 0; x < level.width; ++x, at += call.heads * call.channels)
          for (int64_t h = 0; h < heads; ++h)
            visit(at + h * call.channels, planes.data() + h * planes.plane + level.start + y * level.row + x * planes.channels);
  }
};

// The sum of one head's points, for blocks of W channels at `corners`: two neighbouring corners in one vector where both fit.
template <class A, int W>
inline void sum_points(const A* data, const Table<A>& table, int64_t first, int64_t last, int64_t channels, A* to) {
  const Int<A>* corner = table.corner.data();
  const A *top = table.top.data(), *bottom = table.bottom.data();
  const Int<A>* row = table.row.data();
  Channels<A, W> upper, lower;  // two sums, so that additions overlap
  for (int64_t i = first; i < last; ++i) {
    const A *above = data + corner[i], *below = above + row[i];
    upper.add(top[2 * i], Channels<A, W>::from(above));
    upper.add(top[2 * i + 1], Channels<A, W>::from(above + channels));
    lower.add(bottom[2 * i], Channels<A, W>::from(below));
    lower.add(bottom[2 * i + 1], Channels<A, W>::from(below + channels));
  }
  upper.add(lower);
  upper.to(to);
}

template <class A, int W, int C>
void forward(const SamplingCall& call, int64_t begin, int64_t end) {
  Planes<A, W, C> value(call);
  Table<A> table(call, value);
  const int64_t channels = C ? W : value.channels;
  std::vector<A> result(channels);
  value.zero_around();
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.for_each_pixel(value, [&](int64_t at, A* pixel) { read<A, C>(call.value, at, C ? C : call.channels, pixel); });
    group.for_each_query([&](int64_t r, int64_t c, int64_t place) {
      table.template locate<false>(place * table.points, r, c, Int<A>(channels));
      for (int64_t h = 0; h < group.heads; ++h) {
        for (int64_t block = 0; block < channels; block += W)
          sum_points<A, W>(value.data() + block, table, h * table.points, (h + 1) * table.points, channels, &result[block]);
        write<A, C>(call.out, (place + h) * call.channels, C ? C : call.channels, result.data());
      }
    });
  }
}

template <class A, int W, int C>
void backward(const SamplingCall& call, int64_t begin, int64_t end) {
  Planes<A, W, C> value(call), gradient(call);
  Table<A> table(call, value);
  const int64_t channels = C ? W : value.channels;
  std::vector<A> grad_out(channels);
  value.zero_around();
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    group.for_each_pixel(value, [&](int64_t at, A* pixel) { read<A, C>(call.value, at, C ? C : call.channels, pixel); });
    gradient.zero();
    group.for_each_query([&](int64_t r, int64_t c, int64_t place) {
      table.template locate<true>(place * table.points, r, c, Int<A>(channels));
      for (int64_t h = 0; h < group.heads; ++h) {
        read<A, C>(call.grad_out, (place + h) * call.channels, C ? C : call.channels, grad_out.data());
        for (int64_t i = h * table.points; i < (h + 1) * table.points; ++i) {
          const A weights[4] = {table.top[2 * i], table.top[2 * i + 1], table.bottom[2 * i], table.bottom[2 * i + 1]};
          Vec<A, 4> dots{};
          for (int64_t block = 0; block < channels; block += W) {
            const auto out = Channels<A, W>::from(&grad_out[block]);
            Vec<A, 4> partial[4];
            for (int corner = 0; corner < 4; ++corner) {
              const int64_t at = table.corner[i] + block + (corner & 1 ? channels : 0) + (corner & 2 ? table.row[i] : 0);
              partial[corner] = Channels<A, W>::from(value.data() + at).dot(out);
              auto sum = Channels<A, W>::from(gradient.data() + at);
              sum.add(weights[corner], out);
              sum.to(gradient.data() + at);
            }
            dots += sums<A>(partial[0], partial[1], partial[2], partial[3]);
          }
          store(&table.dot[4 * i], dots);
        }
      }
      table.write_gradients(place * table.points, group.heads);
    });
    group.for_each_pixel(gradient, [&](int64_t at, const A* pixel) {
      write<A, C>(call.grad_value, at, C ? C : call.channels, pixel);
    });
  }
}

// run(block, channels) with the block that sampling_block says, and the widths worth a loop of their own: those of PIIP's heads
// (4 to 32), of DINO's (32) and of InternImage's groups (16, 32).
template <class Run>
void for_width(int64_t channels, Run run) {
  const auto with = [&]<int W, int C>() { run(std::integral_constant<int, W>{}, std::integral_constant<int, C>{}); };
  switch (channels) {
    case 4: return with.template operator()<4, 4>();
    case 6: return with.template operator()<8, 6>();
    case 8: return with.template operator()<8, 8>();
    case 12: return with.template operator()<16, 12>();
    case 16: return with.template operator()<16, 16>();
    case 24: return with.template operator()<24, 24>();
    case 32: return with.template operator()<32, 32>();
    default: return with.template operator()<16, 0>();
  }
}

void forward_float(const SamplingCall& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto block, auto channels) { forward<float, block, channels>(call, begin, end); });
}
void backward_float(const SamplingCall& call, int64_t begin, int64_t end) {
  for_width(call.channels, [&](auto block, auto channels) { backward<float, block, channels>(call, begin, end); });
}
// float64 is for checking gradients, not for speed: blocks of 4, whatever the width.
void forward_double(const SamplingCall& call, int64_t begin, int64_t end) { forward<double, 4, 0>(call, begin, end); }
void backward_double(const SamplingCall& call, int64_t begin, int64_t end) { backward<double, 4, 0>(call, begin, end); }

}  // namespace

extern const SamplingKernels sampling_kernels = {forward_float, forward_double, backward_float, backward_double};

}  // namespace piip::PIIP_ISA
