// What deform_attn_cuda.cpp (PyTorch's side, compiled by the C++ compiler) and deform_attn_cuda.cu (the kernels and their launches,
// compiled by nvcc once per storage) agree on. Neither PyTorch's nor CUDA's headers are needed here.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace piip::cuda {

// What the value's gradient is added up in: floats in memory, in any order; or integers, whose bits do not depend on the order: int64 in
// memory, or int32 in planes of a block's own memory, for maps that fit there.
enum class Sums : int64_t { floats, integers, planes };

// One call. All pointers are on the GPU. Shapes: value (batch, value_height * value_width, heads, channels), offsets (batch, queries,
// heads, points, 2), logits (batch, queries, heads, points), out (batch, queries, heads * channels), all contiguous and 16-byte aligned,
// except that from one query's offsets to the next it is `offsets_row` items, from logits to logits `logits_row`: the two may lie side
// by side in one tensor. The gradients lie as what they belong to.
struct Call {
  int64_t batch, heads, channels, points;
  int64_t value_height, value_width, query_height, query_width;
  int64_t offsets_row, logits_row;
  int64_t aligned;  // 1 where every query's offsets and logits begin at a multiple of 16 bytes
  const void *value, *offsets, *logits, *grad_out;
  void *out, *grad_value, *grad_offsets, *grad_logits;
  Sums kind;
  void* sums;         // floats or integers, zeros at first; may be grad_value if that is float32. Not for planes
  uint32_t* largest;  // room for a number, zero, for integers
  float* kept;  // room for as many floats as there are logits, for backward, unless special(call)
};

// Has code of its own: the widths and number of points of PIIP's networks.
constexpr bool special(const Call& call) {
  for (const int channels : {6, 12, 24, 32, 40, 100})
    if (call.channels == channels) return call.points == 4 && call.aligned;
  return false;
}

// There is code that does both in one launch (of backward: with Sums::floats), and it pays: the directions of a unit of PIIP-TSB or -SBL,
// the narrower first, on images of a few megapixels. 2^19 heads of queries are two to four times what an H100 holds at once; with
// more, each direction fills it alone, and better so: in one launch, the narrower takes as many registers as the wider.
constexpr bool paired(const Call& one, const Call& other) {
  const int64_t heads_of_queries =
      one.batch * one.heads * (one.query_height * one.query_width + other.query_height * other.query_width);
  if (one.batch != other.batch || one.heads != other.heads || heads_of_queries > 1 << 19) return false;
  for (const int channels : {6, 12, 24})
    if (one.channels == channels && other.channels == (channels == 24 ? 32 : 2 * channels)) return special(one) && special(other);
  return false;
}

// Starts the kernels on a stream (cudaStream_t) and returns. nullptr, or what CUDA has against it.
using Launch = const char* (*)(const Call&, void* stream);
using LaunchPair = const char* (*)(const Call&, const Call&, void* stream);

struct Kernels {
  Launch forward, backward;
  bool (*planes_fit)(const Call&);  // whether backward can do with Sums::planes on the present device
  LaunchPair forward_pair, backward_pair;  // for paired calls
};

// Value, out and grad_out are of the first type, offsets and logits of the second.
extern const Kernels float_float, half_half, half_float, bfloat_bfloat, bfloat_float;

// The design of the first public kernels, for experiments/benchmarks only: deform_attn_classic_cuda.cu. float32, locations in [0, 1] in
// place of offsets and weights after the softmax in place of logits.
extern const Kernels classic;

}  // namespace piip::cuda
