// PyTorch's side of msda and dcnv3: checks, allocation, threads. Both say where the points of a head are and let the same kernel
// sample them. The schemas are defined in piip/ops/msda.py and dcnv3.py, which explain the arguments. Stable ABI: no at::.
#include "sampling.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "isa.h"
#include "sampling_describe.h"

namespace {

using piip::describe_dcnv3;
using piip::describe_msda;
using piip::SamplingCall;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

const piip::SamplingKernels& kernels_for(const Tensor& value) {
  if (value.scalar_type() == ScalarType::Double) return piip::portable::sampling_kernels_double;
#if defined(__x86_64__)
  switch (piip::best_isa()) {
    case piip::Isa::avx512bf16:
    case piip::Isa::avx512: return piip::avx512::sampling_kernels;
    case piip::Isa::avx2: return piip::avx2::sampling_kernels;
    case piip::Isa::portable: break;
  }
#endif
  return piip::portable::sampling_kernels;
}

// All in the arithmetic of the value, float64 or float32; bf16 counts as float32.
piip::Array array(const Tensor& tensor, const Tensor& value, const char* name) {
  const bool is_double = value.scalar_type() == ScalarType::Double, bf16 = tensor.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(tensor.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float) || (bf16 && !is_double), name,
                  " must be float32 or bfloat16, or float64 like all the others");
  return {tensor.mutable_data_ptr(), bf16};
}

// Heads that share a unit of work: eight where their planes fit a core's L2 cache, else four, so that their points fill vectors
// and their coordinates whole cache lines; fewer where threads would go without work. Measured best of 1, 2, 4, 8, 16. No result
// depends on it.
int64_t heads_per_group(const SamplingCall& call, int64_t plane_bytes, int64_t threads) {
  constexpr int64_t kPlanesBytes = 1 << 20;
  int64_t heads = std::min<int64_t>(call.heads, 8 * plane_bytes <= kPlanesBytes ? 8 : 4);
  while (heads > 1 && call.batch * ((call.heads + heads - 1) / heads) < threads) heads /= 2;
  return std::max<int64_t>(1, heads);
}

void run(SamplingCall& call, piip::SamplingKernels::Work work, int64_t element_bytes, bool gradients) {
  constexpr int64_t kSamplesPerThread = 1 << 17;  // channels sampled in some 30 us: for less another thread is not worth waking
  const int64_t samples = call.batch * call.queries() * call.heads * int64_t(call.points.size()) * call.channels;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), 1 + samples / kSamplesPerThread);
  const int64_t plane = piip::sampling_plane(call) * (gradients ? 2 : 1);
  call.heads_per_group = heads_per_group(call, plane * element_bytes, threads);
  STD_TORCH_CHECK(plane * call.heads_per_group <= std::numeric_limits<int32_t>::max(), "maps with ", call.channels,
                  " channels a head are too large for 32-bit indices");
  const int64_t units = call.batch * call.groups_per_image();
  torch::stable::parallel_for(0, units, (units + threads - 1) / threads,
                              [&](int64_t begin, int64_t end) { work(call, begin, end); });
}

// What both passes of an op share: contiguous inputs, the call, and the runs. `describe(value, coordinates, weights)` checks the
// shapes and says all of the call but its arrays; `out_shape` is that of the output.
struct Inputs {
  Tensor value, coordinates, weights;
  Inputs(const Tensor& value, const Tensor& coordinates, const Tensor& weights)
      : value(torch::stable::contiguous(value)), coordinates(torch::stable::contiguous(coordinates)),
        weights(torch::stable::contiguous(weights)) {}

  void attach(SamplingCall& call) const {
    call.value = array(value, value, "value");
    call.coordinates = array(coordinates, value, "coordinates");
    call.weights = array(weights, value, "weights");
  }

  Tensor forward(SamplingCall call, const std::vector<int64_t>& out_shape) const {
    attach(call);
    Tensor out = torch::stable::new_empty(value, out_shape);
    if (out.numel() == 0) return out;
    call.out = array(out, value, "out");
    run(call, kernels_for(value).forward, value.scalar_type() == ScalarType::Double ? 8 : 4, false);
    return out;
  }

  Gradients backward(SamplingCall call, const Tensor& given) const {
    attach(call);
    const Tensor grad_out = torch::stable::contiguous(given);
    STD_TORCH_CHECK(grad_out.numel() == call.batch * call.queries() * call.heads * call.channels,
                    "grad_out must have the shape of the output");
    Tensor grad_value = torch::stable::empty_like(value), grad_coordinates = torch::stable::empty_like(coordinates),
           grad_weights = torch::stable::empty_like(weights);
    if (grad_out.numel() == 0) {  // no query: nothing was read
      for (Tensor* gradient : {&grad_value, &grad_coordinates, &grad_weights}) torch::stable::zero_(*gradient);
      return {grad_value, grad_coordinates, grad_weights};
    }
    call.grad_out = array(grad_out, value, "grad_out");
    call.grad_value = array(grad_value, value, "grad_value");
    call.grad_coordinates = array(grad_coordinates, value, "grad_coordinates");
    call.grad_weights = array(grad_weights, value, "grad_weights");
    run(call, kernels_for(value).backward, value.scalar_type() == ScalarType::Double ? 8 : 4, true);
    return {grad_value, grad_coordinates, grad_weights};
  }
};

Tensor msda_forward(Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> spatial_shapes) {
  const SamplingCall call = describe_msda(value, spatial_shapes, locations, weights);
  return Inputs(value, locations, weights).forward(call, {call.batch, call.queries(), call.heads * call.channels});
}

Gradients msda_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights, std::vector<int64_t> spatial_shapes,
                        bool /* deterministic: it is so anyway */) {
  return Inputs(value, locations, weights).backward(describe_msda(value, spatial_shapes, locations, weights), grad_out);
}

Tensor dcnv3_forward(Tensor value, Tensor offsets, Tensor mask, int64_t kernel_size, int64_t stride, int64_t pad,
                     int64_t dilation, int64_t groups, double offset_scale, bool remove_center) {
  const SamplingCall call =
      describe_dcnv3(value, offsets, mask, kernel_size, stride, pad, dilation, groups, offset_scale, remove_center);
  return Inputs(value, offsets, mask)
      .forward(call, {call.batch, call.query_rows, call.query_columns, call.heads * call.channels});
}

Gradients dcnv3_backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor mask, int64_t kernel_size, int64_t stride,
                         int64_t pad, int64_t dilation, int64_t groups, double offset_scale, bool remove_center,
                         bool /* deterministic: it is so anyway */) {
  const SamplingCall call =
      describe_dcnv3(value, offsets, mask, kernel_size, stride, pad, dilation, groups, offset_scale, remove_center);
  return Inputs(value, offsets, mask).backward(call, grad_out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CPU, library) {
  library.impl("msda_forward", TORCH_BOX(&msda_forward));
  library.impl("msda_backward", TORCH_BOX(&msda_backward));
  library.impl("dcnv3_forward", TORCH_BOX(&dcnv3_forward));
  library.impl("dcnv3_backward", TORCH_BOX(&dcnv3_backward));
}
