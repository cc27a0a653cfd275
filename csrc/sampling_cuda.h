// What sampling_cuda.cpp (PyTorch's side of msda and dcnv3 on CUDA) and sampling_cuda.cu (launches, compiled by nvcc once per storage)
// agree on. Neither PyTorch's nor CUDA's headers are needed here.
#pragma once
#include <cstdint>

namespace piip::cuda::sampling {

// How neighbouring points of a head read their coordinates, and the map they are on: x = coordinate * scale_x + shift_x + step * (column
// of the query), in pixels (pixel centres are integers), y likewise. A level's points share a tap in msda, each has its own in dcnv3.
struct Tap {
  float scale_x, scale_y, shift_x, shift_y;
  int32_t height, width, first;  // `first`: pixel of the image where the map begins
};
constexpr int kMostTaps = 64;  // they are an argument of the kernel: no memory to copy or to wait for

// One call. All pointers are on the GPU, contiguous and 16-byte aligned. Shapes: value (batch, pixels, heads, channels), coordinates
// (batch, queries, heads, points, 2), weights (batch, queries, heads, points), out (batch, queries, heads, channels); the gradients as
// what they belong to.
struct Call {
  int64_t batch, heads, channels, points, pixels, query_height, query_width;
  int64_t points_per_tap;
  double step;
  Tap taps[kMostTaps];
  const void *value, *coordinates, *weights, *grad_out;
  void *out, *grad_value, *grad_coordinates, *grad_weights;
  void* sums;         // as in deform_attn_cuda.h
  uint32_t* largest;  // room for two numbers
};

using Launch = const char* (*)(const Call&, void* stream);

struct Kernels {
  Launch forward, backward;
};

// Value, out and grad_out are of the first type, coordinates and weights of the second.
extern const Kernels float_float, half_half, half_float, bfloat_bfloat, bfloat_float;

}  // namespace piip::cuda::sampling
