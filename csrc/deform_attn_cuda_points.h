// Deformable attention's points on a GPU: offsets around the query's own place, weights from a softmax, both kept in registers.
// L stores offsets and logits; P points a head, 0 for any number.
#pragma once
#include "cuda_kernel.h"

namespace piip::cuda {

// What the points of all heads are read from, and where their gradients go. In rows, one a query: those of offsets and logits may be
// parts of a longer one. `kept` is room for (batch, queries, heads, points) numbers where P is 0.
template <class L>
struct AttentionGiven {
  const typename L::Item *offsets, *logits;
  int64_t offsets_row, logits_row;  // items from a query to the next
  int value_height, value_width;
  float step_x, step_y;  // pixels of the map from one query to the next
};
template <class L>
struct AttentionGradients {
  typename L::Item *offsets, *logits;
  float* kept;
};

// Where a head of a query begins.
template <class L>
struct AttentionRow {
  int64_t offsets, logits;
  __device__ AttentionRow(const AttentionGiven<L>& given, const Sizes& sizes, const Place& place, int points)
      : offsets(place.query_row(sizes) * given.offsets_row + place.head * 2 * points),
        logits(place.query_row(sizes) * given.logits_row + place.head * points) {}
};

template <class L, int P>
struct Attention {
  using Given = AttentionGiven<L>;
  using Gradients = AttentionGradients<L>;
  using Row = AttentionRow<L>;
  static constexpr bool kAnyWeight = false;  // those of a head add up to 1

  Map only_map;
  float offset[2 * P], attention[P], x, y;
  float of_offset[2 * P], of_attention[P], mean = 0;  // gradients

  __device__ Attention(const Given& given, const Sizes& sizes, const Place& place)
      : only_map{given.value_height, given.value_width, 0} {
    place.cell(sizes, x, y);
    x = (x + .5f) * given.step_x - .5f, y = (y + .5f) * given.step_y - .5f;
    const Row at(given, sizes, place, P);
    load_all<L, 2 * P>(given.offsets + at.offsets, offset);
    load_all<L, P>(given.logits + at.logits, attention);
    float largest = attention[0], sum = 0;
#pragma unroll
    for (int p = 1; p < P; ++p) largest = fmaxf(largest, attention[p]);
#pragma unroll
    for (int p = 0; p < P; ++p) sum += attention[p] = __expf(attention[p] - largest);
    const float scale = __fdividef(1.f, sum);
#pragma unroll
    for (int p = 0; p < P; ++p) attention[p] *= scale;
  }
  __device__ static constexpr int count() { return P; }
  __device__ Map map(int) const { return only_map; }
  __device__ Point operator[](int p) const { return {x + offset[2 * p], y + offset[2 * p + 1], attention[p]}; }

  // What one point sampled times the gradient, and how that changes with its place.
  __device__ void take(int p, const Point& point, float sampled, float of_x, float of_y, const Gradients&, const Sizes&, const Place&) {
    of_offset[2 * p] = point.attention * of_x, of_offset[2 * p + 1] = point.attention * of_y;
    of_attention[p] = sampled, mean += point.attention * sampled;
  }
  __device__ void write(const Gradients& to, const Given& given, const Sizes& sizes, const Place& place) {
    if (place.lane != 0) return;
    const Row at(given, sizes, place, P);
#pragma unroll
    for (int p = 0; p < P; ++p) of_attention[p] = attention[p] * (of_attention[p] - mean);
    store_all<L, 2 * P>(to.offsets + at.offsets, of_offset);
    store_all<L, P>(to.logits + at.logits, of_attention);
  }
};

// Any number of points: read again where they are used.
template <class L>
struct Attention<L, 0> {
  using Given = AttentionGiven<L>;
  using Gradients = AttentionGradients<L>;
  using Row = AttentionRow<L>;
  static constexpr bool kAnyWeight = false;

  Map only_map;
  const typename L::Item *offsets, *logits;
  int points;
  float x, y, largest, scale, mean = 0;
  Row at;

  __device__ Attention(const Given& given, const Sizes& sizes, const Place& place)
      : only_map{given.value_height, given.value_width, 0}, points(sizes.points), at(given, sizes, place, sizes.points) {
    place.cell(sizes, x, y);
    x = (x + .5f) * given.step_x - .5f, y = (y + .5f) * given.step_y - .5f;
    offsets = given.offsets + at.offsets, logits = given.logits + at.logits;
    largest = load_one<L>(logits);
#pragma unroll 1
    for (int p = 1; p < points; ++p) largest = fmaxf(largest, load_one<L>(logits + p));
    float sum = 0;
#pragma unroll 1
    for (int p = 0; p < points; ++p) sum += __expf(load_one<L>(logits + p) - largest);
    scale = __fdividef(1.f, sum);
  }
  __device__ int count() const { return points; }
  __device__ Map map(int) const { return only_map; }
  __device__ Point operator[](int p) const {
    return {x + load_one<L>(offsets + 2 * p), y + load_one<L>(offsets + 2 * p + 1), __expf(load_one<L>(logits + p) - largest) * scale};
  }

  __device__ void take(int p, const Point& point, float sampled, float of_x, float of_y, const Gradients& to, const Sizes& sizes,
                       const Place& place) {
    mean += point.attention * sampled;
    if (place.lane != 0) return;
    store_one<L>(to.offsets + at.offsets + 2 * p, point.attention * of_x);
    store_one<L>(to.offsets + at.offsets + 2 * p + 1, point.attention * of_y);
    to.kept[place.row(sizes) * points + p] = sampled;
  }
  __device__ void write(const Gradients& to, const Given&, const Sizes& sizes, const Place& place) {
    if (place.lane != 0) return;
    for (int p = 0; p < points; ++p)
      store_one<L>(to.logits + at.logits + p, (*this)[p].attention * (to.kept[place.row(sizes) * points + p] - mean));
  }
};

}  // namespace piip::cuda
