// What a call of msda or dcnv3 asks for, from its tensors' shapes: checked, and as sampling.h says it. For the CPU and for CUDA.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <vector>

#include "sampling.h"

namespace piip {

using torch::stable::Tensor;

// All of a call but its arrays.
inline SamplingCall describe_msda(const Tensor& value, const std::vector<int64_t>& hw, const Tensor& locations, const Tensor& weights) {
  SamplingCall call;
  int64_t pixels = 0;
  STD_TORCH_CHECK(hw.size() % 2 == 0, "spatial_shapes must be height, width of every level");
  for (size_t level = 0; level < hw.size() / 2; ++level) {
    const int64_t height = hw[2 * level], width = hw[2 * level + 1];
    STD_TORCH_CHECK(height > 0 && width > 0, "a level needs at least one pixel, got ", height, " x ", width);
    call.levels.push_back({height, width});
    pixels += height * width;
  }
  const int64_t levels = call.levels.size();
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) == pixels, "value must be (B, ", pixels, ", N, D)");
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(0) == value.size(0) && locations.size(2) == value.size(2) &&
                      locations.size(3) == levels && locations.size(5) == 2,
                  "sampling_locations must be (B, Q, N, L, P, 2)");
  STD_TORCH_CHECK(weights.dim() == 5 && weights.numel() * 2 == locations.numel() && weights.size(0) == value.size(0) &&
                      weights.size(1) == locations.size(1) && weights.size(2) == value.size(2) && weights.size(3) == levels,
                  "attention_weights must be (B, Q, N, L, P)");
  const int64_t points = locations.size(4);
  STD_TORCH_CHECK(levels * points > 0, "a head needs at least one point");
  call.batch = value.size(0), call.heads = value.size(2), call.channels = value.size(3);
  call.query_rows = 1, call.query_columns = locations.size(1);
  for (int64_t level = 0; level < levels; ++level)
    for (int64_t p = 0; p < points; ++p) {
      const Level size = call.levels[level];
      call.points.push_back({double(size.width), double(size.height), -0.5, -0.5, level});
    }
  return call;
}

inline SamplingCall describe_dcnv3(const Tensor& value, const Tensor& offsets, const Tensor& mask, int64_t kernel_size, int64_t stride,
                            int64_t pad, int64_t dilation, int64_t groups, double offset_scale, bool remove_center) {
  STD_TORCH_CHECK(kernel_size > 0 && stride > 0 && pad >= 0 && dilation > 0 && groups > 0,
                  "kernel_size, stride, dilation and groups must be positive, pad not negative");
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) > 0 && value.size(2) > 0 && value.size(3) % groups == 0,
                  "value must be (B, H, W, C) with C a multiple of groups");
  SamplingCall call;
  const int64_t extent = dilation * (kernel_size - 1), half = extent / 2;
  const int64_t height = value.size(1), width = value.size(2);
  STD_TORCH_CHECK(std::min(height, width) + 2 * pad > extent, "a map of ", height, " x ", width, " is smaller than the kernel");
  call.batch = value.size(0), call.heads = groups, call.channels = value.size(3) / groups;
  call.query_rows = (height + 2 * pad - extent - 1) / stride + 1;
  call.query_columns = (width + 2 * pad - extent - 1) / stride + 1;
  call.step = double(stride);
  call.levels = {{height, width}};
  for (int64_t i = 0; i < kernel_size; ++i)  // columns outside: the order in which offsets and mask are stored
    for (int64_t j = 0; j < kernel_size; ++j) {
      if (remove_center && i * kernel_size + j == (kernel_size * kernel_size - 1) / 2) continue;
      const double origin = double(half - pad);
      call.points.push_back({offset_scale, offset_scale, origin + offset_scale * double(i * dilation - half),
                             origin + offset_scale * double(j * dilation - half), 0});
    }
  const int64_t taps = groups * int64_t(call.points.size());
  STD_TORCH_CHECK(taps > 0, "a kernel of one pixel has no tap left without its centre");
  for (const Tensor* tensor : {&offsets, &mask})
    STD_TORCH_CHECK(tensor->dim() == 4 && tensor->size(0) == call.batch && tensor->size(1) == call.query_rows &&
                        tensor->size(2) == call.query_columns && tensor->size(3) == (tensor == &mask ? taps : 2 * taps),
                    "offsets must be (B, Ho, Wo, G * K * 2) and mask (B, Ho, Wo, G * K) with ", taps, " taps in all groups");
  return call;
}

}  // namespace piip
