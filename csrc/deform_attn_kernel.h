// What deform_attn.cpp (PyTorch's side) and deform_attn_kernel.cpp (the arithmetic, compiled once per instruction set) agree on.
#pragma once
#include <cstdint>

#include "array.h"

namespace piip {

// One call. Shapes: value (batch, value_height * value_width, heads, channels), offsets (batch, queries, heads, points, 2),
// logits (batch, queries, heads, points), out (batch, queries, heads * channels); the gradients as what they belong to. All are
// contiguous, but offsets and logits may lie in rows, one per query, that hold something else too: their sizes are given.
struct Call {
  int64_t batch, heads, channels, points;
  int64_t value_height, value_width, query_height, query_width;
  int64_t offsets_row, logits_row;  // elements
  Array value, offsets, logits, out;
  Array grad_out, grad_value, grad_offsets, grad_logits;
  // The unit of work: one image and this many neighbouring heads (the last group of an image may have fewer).
  int64_t heads_per_group;

  // What AVX512-BF16 has code for: bf16 values, four points and up to 16 channels a head.
  bool bf16_narrow() const {
    const bool stored = value.bf16 && (!grad_out.data || grad_out.bf16) && offsets.bf16 == logits.bf16;
    return stored && points == 4 && channels <= 16;
  }
  int64_t queries() const { return query_height * query_width; }  // of an image
  int64_t groups_per_image() const { return (heads + heads_per_group - 1) / heads_per_group; }
};

constexpr int64_t kMostHeads = 8;  // a group has no more

// Does the units of work [begin, end) of a call.
using Work = void (*)(const Call&, int64_t begin, int64_t end);

struct Kernels {
  Work forward, backward;
};

// Channels of a pixel in the kernel's own copy of the value: padded, so that whole vectors can be loaded.
constexpr int64_t padded_channels(int64_t channels) {
  return channels <= 8 ? 8 : channels <= 16 ? 16 : channels <= 24 ? 24 : (channels + 15) / 16 * 16;
}

// The kernel's copy of a map has a border of two zero pixels: a location clamped to [-2, size] then reads only zeros where it
// is outside, so no corner needs a test, and no NaN or inf of the map can leak to a point beside it (0 * inf is NaN).
constexpr int64_t kBorder = 2;

namespace portable {
extern const Kernels kernels, kernels_double;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512bf16 {  // for calls that are `bf16_narrow`
extern const Kernels kernels;
}
#endif

}  // namespace piip
