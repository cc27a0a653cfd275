// Where the maps and the points of a query are, what the points weigh, and the gradients of both.
#pragma once
#include <vector>

#include "array_io.h"
#include "planes.h"
#include "sampling.h"

namespace piip::PIIP_ISA {
namespace {

// Where a level's pixels are on a plane, in elements.
struct LevelLayout {
  int64_t height, width, start, row;  // start: of pixel (0, 0), behind the border
};

// The maps of a group of heads, one plane per head. With gradients a pixel is its channels, then their gradients: one address
// and neighbouring cache lines for both.
template <class A>
struct Maps {
  int64_t channels, pixel, plane = 0;  // elements: channels of a pixel (whole blocks), from pixel to pixel, from head to head
  std::vector<LevelLayout> levels;
  Scratch memory;
  A* data;

  Maps(const SamplingCall& call, int64_t block, bool gradients)
      : channels((call.channels + block - 1) / block * block), pixel(channels * (gradients ? 2 : 1)),
        memory(sampling_plane(call) * (gradients ? 2 : 1) * call.heads_per_group * sizeof(A)), data(static_cast<A*>(memory.data())) {
    for (const Level& level : call.levels) {
      const int64_t row = pixel * (level.width + 2 * kSamplingBorder);
      levels.push_back({level.height, level.width, plane + kSamplingBorder * (row + pixel), row});
      plane += row * (level.height + 2 * kSamplingBorder);
    }
    for (int64_t h = 0; h < call.heads_per_group; ++h)
      for (const LevelLayout& level : levels) clear_border(data + h * plane + level.start, level);
  }

 private:
  void clear_border(A* inside, const LevelLayout& level) {
    A* end = inside - kSamplingBorder * (level.row + pixel);
    const auto zeros = [&](int64_t count) { end = std::fill_n(end, count, A(0)); };
    zeros(kSamplingBorder * (level.row + pixel));
    for (int64_t y = 0; y < level.height; ++y, zeros(2 * kSamplingBorder * pixel)) end += level.width * pixel;
    zeros(kSamplingBorder * (level.row - pixel));
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
  Int<A> pixel;
  // The same for all queries: how coordinates are read, the size of the map, its row and its start in the planes.
  std::vector<A> scale_x, scale_y, shift_x, shift_y, width, height;
  std::vector<Int<A>> row, start;
  // Of one query: the top left corner in the planes, weight * bilinear of top left, top right, bottom left and bottom right.
  std::vector<Int<A>> corner;
  std::vector<A> weight[4];
  // For the gradients: the given weight, the location's fraction of a pixel, and output gradient . corner, four for each point.
  std::vector<A> given, fraction_x, fraction_y, dot;

  Table(const SamplingCall& call, const Maps<A>& maps)
      : call(call), points(call.points.size()), size(call.batch * call.queries() * call.heads * points),
        padded((call.heads_per_group * points + L - 1) / L * L), pixel(Int<A>(maps.pixel)),
        scale_x(padded), scale_y(padded), shift_x(padded), shift_y(padded), width(padded), height(padded),
        row(padded), start(padded), corner(padded), given(padded), fraction_x(padded), fraction_y(padded), dot(4 * padded) {
    for (auto& w : weight) w.resize(padded);
    for (int64_t i = 0; i < call.heads_per_group * points; ++i) {
      const Point& point = call.points[i % points];
      const LevelLayout& level = maps.levels[point.level];
      scale_x[i] = A(point.scale_x), scale_y[i] = A(point.scale_y), shift_x[i] = A(point.shift_x), shift_y[i] = A(point.shift_y);
      width[i] = A(level.width), height[i] = A(level.height);
      row[i] = Int<A>(level.row), start[i] = Int<A>(i / points * maps.plane + level.start);
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
  template <bool kGradients>
  void locate(int64_t first, int64_t query_row, int64_t query_column) {
    const A left = A(call.step * query_column), above = A(call.step * query_row);
    for (int64_t i = 0; i < padded; i += L) {
      const V a = read_lanes<A>(call.weights, first + i, size);
      const V pairs = read_lanes<A>(call.coordinates, 2 * (first + i), 2 * size);
      const V more = read_lanes<A>(call.coordinates, 2 * (first + i) + L, 2 * size);
      V x = __builtin_shuffle(pairs, more, lanes<A>([](int i) { return 2 * i; })) * load<V>(&scale_x[i]) + (load<V>(&shift_x[i]) + left);
      V y = __builtin_shuffle(pairs, more, lanes<A>([](int i) { return 2 * i + 1; })) * load<V>(&scale_y[i]) + (load<V>(&shift_y[i]) + above);
      const I column = split(x, load<V>(&width[i])), line = split(y, load<V>(&height[i]));
      store(&corner[i], load<I>(&start[i]) + line * load<I>(&row[i]) + column * pixel);
      const V low = a * y, high = a - low, top_right = high * x, bottom_right = low * x;
      store(&weight[0][i], high - top_right);
      store(&weight[1][i], top_right);
      store(&weight[2][i], low - bottom_right);
      store(&weight[3][i], bottom_right);
      if constexpr (kGradients) {
        store(&given[i], a);
        store(&fraction_x[i], x);
        store(&fraction_y[i], y);
      }
    }
  }

  // From `dot` to the gradients of one query's coordinates and weights.
  void write_gradients(int64_t first, int64_t heads) {
    for (int64_t i = 0; i < heads * points; i += L) {
      const V x = load<V>(&fraction_x[i]), y = load<V>(&fraction_y[i]), a = load<V>(&given[i]);
      V d[4];
      corners_apart(&dot[4 * i], d);
      const V upper = d[0] + x * (d[1] - d[0]), lower = d[2] + x * (d[3] - d[2]);
      const V of_x = a * ((d[1] - d[0]) + y * ((d[3] - d[2]) - (d[1] - d[0]))) * load<V>(&scale_x[i]);
      const V of_y = a * (lower - upper) * load<V>(&scale_y[i]);
      const int64_t count = std::min<int64_t>(L, heads * points - i);
      const int64_t of_pairs = 2 * count, first_pairs = std::min<int64_t>(L, of_pairs);
      const I low = lanes<A>([](int i) { return i / 2 + i % 2 * L; });  // x0 y0 x1 y1 ...
      write_lanes<A>(call.grad_coordinates, 2 * (first + i), first_pairs, __builtin_shuffle(of_x, of_y, low));
      write_lanes<A>(call.grad_coordinates, 2 * (first + i) + L, of_pairs - first_pairs, __builtin_shuffle(of_x, of_y, low + Int<A>(L / 2)));
      write_lanes<A>(call.grad_weights, first + i, count, V(upper + y * (lower - upper)));
    }
  }

 private:
  // From the four corners of each of L points to each corner of all points.
  static void corners_apart(const A* four_each, V* d) {
    const I even = lanes<A>([](int i) { return 2 * i; }), odd = even + 1;
    const V v0 = load<V>(four_each), v1 = load<V>(four_each + L), v2 = load<V>(four_each + 2 * L), v3 = load<V>(four_each + 3 * L);
    const V first_02 = __builtin_shuffle(v0, v1, even), first_13 = __builtin_shuffle(v0, v1, odd);
    const V last_02 = __builtin_shuffle(v2, v3, even), last_13 = __builtin_shuffle(v2, v3, odd);
    d[0] = __builtin_shuffle(first_02, last_02, even), d[2] = __builtin_shuffle(first_02, last_02, odd);
    d[1] = __builtin_shuffle(first_13, last_13, even), d[3] = __builtin_shuffle(first_13, last_13, odd);
  }
};

}  // namespace
}  // namespace piip::PIIP_ISA
