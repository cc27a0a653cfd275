// PyTorch's side of msda and dcnv3 on CUDA. Schemas and arguments: piip/ops/msda.py and dcnv3.py.
#include "sampling_cuda.h"

#include <initializer_list>
#include <vector>

#include "cuda_torch.h"
#include "sampling_describe.h"

namespace {

using namespace piip::cuda;
using piip::SamplingCall;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// `points_per_tap`: points that follow each other and are read alike.
sampling::Call flat(const SamplingCall& asked, int64_t points_per_tap) {
  sampling::Call call{};
  call.batch = asked.batch, call.heads = asked.heads, call.channels = asked.channels, call.points = asked.points.size();
  call.pixels = asked.pixels(), call.query_height = asked.query_rows, call.query_width = asked.query_columns, call.step = asked.step;
  call.points_per_tap = points_per_tap;
  const int64_t taps = call.points / points_per_tap;
  STD_TORCH_CHECK(taps <= sampling::kMostTaps, "the CUDA kernel takes at most ", sampling::kMostTaps,
                  " levels (msda) or taps of a group (dcnv3), got ", taps, ". Take kernel='reference'.");
  std::vector<int64_t> first{0};
  for (const piip::Level& level : asked.levels) first.push_back(first.back() + level.height * level.width);
  for (int64_t i = 0; i < taps; ++i) {
    const piip::Point& point = asked.points[i * points_per_tap];
    const piip::Level& level = asked.levels[point.level];
    call.taps[i] = {float(point.scale_x), float(point.scale_y), float(point.shift_x), float(point.shift_y),
                    int32_t(level.height), int32_t(level.width), int32_t(first[point.level])};
  }
  check_size(call.batch, call.pixels, asked.queries(), call.heads * call.channels);
  return call;
}

// The inputs of both passes, as the kernels read them.
struct Inputs {
  Tensor value, coordinates, weights;
  Inputs(const Tensor& value, const Tensor& coordinates, const Tensor& weights)
      : value(readable(value)), coordinates(readable(coordinates)), weights(readable(weights)) {
    check_one_gpu(value, {&coordinates, &weights});
    STD_TORCH_CHECK(coordinates.scalar_type() == weights.scalar_type(), "coordinates and weights must be of one dtype");
  }

  const sampling::Kernels& kernels() const {
    return for_storage(value, coordinates, "coordinates and weights", sampling::float_float, sampling::half_half, sampling::half_float,
                       sampling::bfloat_bfloat, sampling::bfloat_float);
  }

  void attach(sampling::Call& call) const {
    call.value = value.const_data_ptr(), call.coordinates = coordinates.const_data_ptr(), call.weights = weights.const_data_ptr();
  }

  Tensor forward(sampling::Call call, const std::vector<int64_t>& out_shape, const char* op) const {
    Tensor out = torch::stable::new_empty(value, out_shape);
    if (out.numel() == 0) return out;
    attach(call);
    call.out = out.mutable_data_ptr();
    start(kernels().forward, value, op, call);
    return out;
  }

  Gradients backward(sampling::Call call, const Tensor& given, bool deterministic, const char* op) const {
    check_one_gpu(value, {&given});
    const Tensor grad_out = readable(given);
    STD_TORCH_CHECK(grad_out.scalar_type() == value.scalar_type() &&
                        grad_out.numel() == call.batch * call.query_height * call.query_width * call.heads * call.channels,
                    "grad_out must have the shape of the output and value's dtype");
    ValueGradient grad_value(value, deterministic);
    Tensor grad_coordinates = torch::stable::empty_like(coordinates), grad_weights = torch::stable::empty_like(weights);
    if (grad_out.numel() == 0) {  // no query: nothing was read
      for (Tensor* gradient : {&grad_value.gradient, &grad_coordinates, &grad_weights}) torch::stable::zero_(*gradient);
      return {grad_value.gradient, grad_coordinates, grad_weights};
    }
    attach(call);
    grad_value.attach(call, deterministic);
    call.grad_out = grad_out.const_data_ptr();
    call.grad_coordinates = grad_coordinates.mutable_data_ptr(), call.grad_weights = grad_weights.mutable_data_ptr();
    start(kernels().backward, value, op, call);
    return {grad_value.gradient, grad_coordinates, grad_weights};
  }
};

Tensor msda_forward(Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> spatial_shapes) {
  const DeviceGuard guard(value.get_device_index());
  const sampling::Call call = flat(piip::describe_msda(value, spatial_shapes, locations, weights), locations.size(4));
  return Inputs(value, locations, weights).forward(call, {call.batch, call.query_width, call.heads * call.channels}, "msda");
}

Gradients msda_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> spatial_shapes,
                        bool deterministic) {
  const DeviceGuard guard(value.get_device_index());
  const sampling::Call call = flat(piip::describe_msda(value, spatial_shapes, locations, weights), locations.size(4));
  return Inputs(value, locations, weights).backward(call, grad_out, deterministic, "msda");
}

Tensor dcnv3_forward(Tensor value, Tensor offsets, Tensor mask, int64_t kernel_size, int64_t stride, int64_t pad, int64_t dilation,
                     int64_t groups, double offset_scale, bool remove_center) {
  const DeviceGuard guard(value.get_device_index());
  const sampling::Call call = flat(
      piip::describe_dcnv3(value, offsets, mask, kernel_size, stride, pad, dilation, groups, offset_scale, remove_center), 1);
  return Inputs(value, offsets, mask)
      .forward(call, {call.batch, call.query_height, call.query_width, call.heads * call.channels}, "dcnv3");
}

Gradients dcnv3_backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor mask, int64_t kernel_size, int64_t stride, int64_t pad,
                         int64_t dilation, int64_t groups, double offset_scale, bool remove_center, bool deterministic) {
  const DeviceGuard guard(value.get_device_index());
  const sampling::Call call = flat(
      piip::describe_dcnv3(value, offsets, mask, kernel_size, stride, pad, dilation, groups, offset_scale, remove_center), 1);
  return Inputs(value, offsets, mask).backward(call, grad_out, deterministic, "dcnv3");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CUDA, library) {
  library.impl("msda_forward", TORCH_BOX(&msda_forward));
  library.impl("msda_backward", TORCH_BOX(&msda_backward));
  library.impl("dcnv3_forward", TORCH_BOX(&dcnv3_forward));
  library.impl("dcnv3_backward", TORCH_BOX(&dcnv3_backward));
}
