// What sampling.cpp (PyTorch's side of msda and dcnv3) and sampling_kernel.cpp (the arithmetic, compiled once per instruction
// set) agree on: every query of every head sums weighted samples of its head's maps, at points given by coordinates.
#pragma once
#include <cstdint>
#include <vector>

#include "array.h"

namespace piip {

struct Level {
  int64_t height, width;
};

// How point k of a head reads its two coordinates: x = coordinate * scale_x + shift_x + step * (column of the query), in pixels
// of its level (pixel centres are integers), and y likewise with the row.
struct Point {
  double scale_x, scale_y, shift_x, shift_y;
  int64_t level;
};

// One call. Shapes: value (batch, pixels of all levels, heads, channels), coordinates (batch, queries, heads, points, 2),
// weights (batch, queries, heads, points), out (batch, queries, heads, channels); the gradients as what they belong to.
struct SamplingCall {
  int64_t batch = 0, heads = 0, channels = 0, query_rows = 0, query_columns = 0;
  double step = 0;
  std::vector<Level> levels;
  std::vector<Point> points;
  Array value, coordinates, weights, out;
  Array grad_out, grad_value, grad_coordinates, grad_weights;
  // The unit of work: one image and this many neighbouring heads (the last group of an image may have fewer).
  int64_t heads_per_group = 1;

  int64_t queries() const { return query_rows * query_columns; }
  int64_t pixels() const {
    int64_t sum = 0;
    for (const Level& level : levels) sum += level.height * level.width;
    return sum;
  }
  int64_t groups_per_image() const { return (heads + heads_per_group - 1) / heads_per_group; }
};

struct SamplingKernels {
  using Work = void (*)(const SamplingCall&, int64_t begin, int64_t end);  // does the units of work [begin, end)
  Work forward, backward;
};

// The kernel copies a group's maps to planes with a border of two zero pixels. A location is clamped to [-2, size], so outside
// the map it reads zeros only: no corner needs a test, and no NaN or inf of the map leaks to a point beside it (0 * inf is NaN).
constexpr int64_t kSamplingBorder = 2;

// Channels are padded there to whole blocks of this many, so that whole vectors can be loaded.
constexpr int64_t sampling_block(int64_t channels) {
  switch (channels) {
    case 4: case 6: case 8: return 8;
    case 24: return 24;
    case 32: return 32;
    default: return 16;
  }
}

// Elements of one head's plane, or a few more; twice that with gradients.
inline int64_t sampling_plane(const SamplingCall& call) {
  const int64_t block = sampling_block(call.channels);
  int64_t pixels = 0;
  for (const Level& level : call.levels) pixels += (level.height + 2 * kSamplingBorder) * (level.width + 2 * kSamplingBorder);
  return pixels * ((call.channels + block - 1) / block * block);
}

namespace portable {
extern const SamplingKernels sampling_kernels, sampling_kernels_double;
}
#if defined(__x86_64__)
namespace avx2 {
extern const SamplingKernels sampling_kernels;
}
namespace avx512 {
extern const SamplingKernels sampling_kernels;
}
#endif

}  // namespace piip
