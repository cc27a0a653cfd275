// What deform_attn_cuda.cpp (PyTorch's side, compiled by the C++ compiler) and deform_attn_cuda.cu (the kernels and their launches,
// compiled by nvcc once per storage) agree on. Neither PyTorch's nor CUDA's headers are needed here.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace piip::cuda {

// One call. All pointers are on the GPU, contiguous and 16-byte aligned. Shapes: value (batch, value_height * value_width, heads,
// channels), offsets (batch, queries, heads, points, 2), logits (batch, queries, heads, points), out (batch, queries, heads *
// channels); the gradients as what they belong to.
struct Call {
  int64_t batch, heads, channels, points;
  int64_t value_height, value_width, query_height, query_width;
  const void *value, *offsets, *logits, *grad_out;
  void *out, *grad_value, *grad_offsets, *grad_logits;
  // The value's gradient is summed here, from zeros: float32, or int64 where `largest` is given. May be grad_value if that is float32.
  void* sums;
  // Room for one number, zero: asks for sums in fixed point, whose bits do not depend on the order of the atomic additions.
  uint32_t* largest;
};

// Has code of its own: the widths and number of points of PIIP's networks. In all other calls grad_logits is float32, whatever the
// logits are: the kernel keeps numbers there that it needs again.
constexpr bool special(const Call& call) {
  for (const int channels : {6, 12, 24, 32, 40, 100})
    if (call.channels == channels) return call.points == 4;
  return false;
}

// Starts the kernels on a stream (cudaStream_t) and returns. nullptr, or what CUDA has against it.
using Launch = const char* (*)(const Call&, void* stream);

struct Kernels {
  Launch forward, backward;
};

// Value, out and grad_out are of the first type, offsets and logits of the second.
extern const Kernels float_float, half_half, half_float, bfloat_bfloat, bfloat_float;

// The design of the first public kernels, for experiments/benchmarks only: deform_attn_classic.cu. float32, locations in [0, 1] in
// place of offsets and weights after the softmax in place of logits.
extern const Kernels classic;

}  // namespace piip::cuda
