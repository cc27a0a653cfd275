// PyTorch's side of deformable attention on CUDA: checks, allocation, device and stream. Schemas and arguments: piip/ops/deform_attn.py.
// Stable ABI and C shims only, no CUDA headers. Nothing here waits for the GPU, so calls can be captured in a CUDA graph.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <limits>
#include <tuple>

#include "deform_attn_cuda.h"

namespace {

using piip::cuda::Call;
using piip::cuda::Kernels;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const Kernels& kernels(ScalarType value, ScalarType location) {
  using namespace piip::cuda;
  if (value == ScalarType::Float && location == ScalarType::Float) return float_float;
  if (value == ScalarType::Half && location == ScalarType::Half) return half_half;
  if (value == ScalarType::Half && location == ScalarType::Float) return half_float;
  if (value == ScalarType::BFloat16 && location == ScalarType::BFloat16) return bfloat_bfloat;
  STD_TORCH_CHECK(value == ScalarType::BFloat16 && location == ScalarType::Float,
                  "value must be float32, float16 or bfloat16; offsets and logits of one dtype, float32 or value's");
  return bfloat_float;
}

// As the kernels read it: contiguous, and aligned for loads of 16 bytes (a slice may begin anywhere).
Tensor readable(const Tensor& tensor) {
  const Tensor whole = torch::stable::contiguous(tensor);
  return reinterpret_cast<std::uintptr_t>(whole.const_data_ptr()) % 16 ? torch::stable::clone(whole) : whole;
}

Call describe(const Tensor& value, const Tensor& offsets, const Tensor& logits, int64_t value_height, int64_t value_width,
              int64_t query_height, int64_t query_width) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max(), kGrid = 65535;
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) == value_height * value_width, "value must be (B, Hv * Wv, N, D)");
  STD_TORCH_CHECK(offsets.dim() == 5 && offsets.size(0) == value.size(0) && offsets.size(1) == query_height * query_width &&
                      offsets.size(2) == value.size(2) && offsets.size(4) == 2,
                  "offsets must be (B, Hq * Wq, N, P, 2)");
  STD_TORCH_CHECK(logits.dim() == 4 && logits.size(0) == offsets.size(0) && logits.size(1) == offsets.size(1) &&
                      logits.size(2) == offsets.size(2) && logits.size(3) == offsets.size(3),
                  "logits must be (B, Hq * Wq, N, P)");
  STD_TORCH_CHECK(logits.size(3) > 0, "a head needs at least one point");
  STD_TORCH_CHECK(offsets.scalar_type() == logits.scalar_type(), "offsets and logits must be of one dtype");
  STD_TORCH_CHECK(offsets.get_device_index() == value.get_device_index() && logits.get_device_index() == value.get_device_index() &&
                      offsets.is_cuda() && logits.is_cuda(),
                  "value, offsets and logits must be on one GPU");
  STD_TORCH_CHECK(value.size(0) <= kGrid, "a batch of ", value.size(0), " is too large: at most ", kGrid, ", split it");
  STD_TORCH_CHECK(value.size(1) <= kLargest && offsets.size(1) <= kLargest && value.size(2) * value.size(3) <= kLargest,
                  "pixels, queries, and heads times channels, must each be below 2^31");
  Call call{};
  call.batch = value.size(0), call.heads = value.size(2), call.channels = value.size(3), call.points = logits.size(3);
  call.value_height = value_height, call.value_width = value_width;
  call.query_height = query_height, call.query_width = query_width;
  call.value = value.const_data_ptr(), call.offsets = offsets.const_data_ptr(), call.logits = logits.const_data_ptr();
  return call;
}

void run(piip::cuda::Launch launch, const Call& call, const Tensor& on) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  const char* error = launch(call, stream);
  STD_TORCH_CHECK(error == nullptr, "CUDA refused to start deform_attn: ", error);
}

Tensor forward_with(const Kernels& kernels, const Tensor& value, const Call& described) {
  Call call = described;
  Tensor out = torch::stable::new_empty(value, {call.batch, call.query_height * call.query_width, call.heads * call.channels});
  if (out.numel() == 0) return out;
  if (value.numel() == 0) return torch::stable::zero_(out);
  call.out = out.mutable_data_ptr();
  run(kernels.forward, call, value);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward_with(const Kernels& kernels, const Tensor& grad_out, const Tensor& value,
                                                 const Tensor& offsets, const Tensor& logits, const Call& described,
                                                 bool float_grad_logits, bool deterministic) {
  Call call = described;
  STD_TORCH_CHECK(grad_out.scalar_type() == value.scalar_type() && grad_out.is_cuda() &&
                      grad_out.numel() == call.batch * call.query_height * call.query_width * call.heads * call.channels,
                  "grad_out must be (B, Hq * Wq, N * D), of value's dtype, on its GPU");
  Tensor grad_offsets = torch::stable::empty_like(offsets);
  Tensor grad_logits = torch::stable::new_empty(logits, logits.sizes(), float_grad_logits ? ScalarType::Float : logits.scalar_type());
  Tensor sums = torch::stable::new_zeros(value, value.sizes(), deterministic ? ScalarType::Long : ScalarType::Float);
  Tensor grad_value = value.scalar_type() == sums.scalar_type() ? sums : torch::stable::empty_like(value);
  if (grad_out.numel() == 0 || value.numel() == 0) {  // nothing was read
    torch::stable::zero_(grad_value);
    torch::stable::zero_(grad_offsets);
    torch::stable::zero_(grad_logits);
  } else {
    Tensor largest = torch::stable::new_zeros(value, {1}, ScalarType::Int);
    call.grad_out = grad_out.const_data_ptr(), call.sums = sums.mutable_data_ptr(), call.grad_value = grad_value.mutable_data_ptr();
    call.grad_offsets = grad_offsets.mutable_data_ptr(), call.grad_logits = grad_logits.mutable_data_ptr();
    if (deterministic) call.largest = static_cast<uint32_t*>(largest.mutable_data_ptr());
    run(kernels.backward, call, value);
  }
  if (grad_logits.scalar_type() != logits.scalar_type()) grad_logits = torch::stable::to(grad_logits, logits.scalar_type());
  return {grad_value, grad_offsets, grad_logits};
}

Tensor forward(Tensor value, Tensor offsets, Tensor logits, int64_t value_height, int64_t value_width, int64_t query_height,
               int64_t query_width) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  value = readable(value), offsets = readable(offsets), logits = readable(logits);
  const Call call = describe(value, offsets, logits, value_height, value_width, query_height, query_width);
  return forward_with(kernels(value.scalar_type(), offsets.scalar_type()), value, call);
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, int64_t value_height,
                                            int64_t value_width, int64_t query_height, int64_t query_width, bool deterministic) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  grad_out = readable(grad_out), value = readable(value), offsets = readable(offsets), logits = readable(logits);
  const Call call = describe(value, offsets, logits, value_height, value_width, query_height, query_width);
  return backward_with(kernels(value.scalar_type(), offsets.scalar_type()), grad_out, value, offsets, logits, call,
                       !piip::cuda::special(call), deterministic);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CUDA, library) {
  library.impl("deform_attn_forward", TORCH_BOX(&forward));
  library.impl("deform_attn_backward", TORCH_BOX(&backward));
}

// The classic design, for experiments/benchmarks: locations in [0, 1] for offsets, weights after the softmax for logits. float32.
namespace {

Tensor classic_forward(Tensor value, Tensor locations, Tensor weights, int64_t value_height, int64_t value_width,
                       int64_t query_height, int64_t query_width) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Call call = describe(value, locations, weights, value_height, value_width, query_height, query_width);
  STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float && locations.scalar_type() == ScalarType::Float, "float32 only");
  return forward_with(piip::cuda::classic, value, call);
}

std::tuple<Tensor, Tensor, Tensor> classic_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights,
                                                    int64_t value_height, int64_t value_width, int64_t query_height,
                                                    int64_t query_width) {
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Call call = describe(value, locations, weights, value_height, value_width, query_height, query_width);
  return backward_with(piip::cuda::classic, grad_out, value, locations, weights, call, false, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(piip, library) {
  library.def(
      "deform_attn_classic_forward(Tensor value, Tensor locations, Tensor weights, SymInt value_height, SymInt value_width, "
      "SymInt query_height, SymInt query_width) -> Tensor");
  library.def(
      "deform_attn_classic_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights, SymInt value_height, "
      "SymInt value_width, SymInt query_height, SymInt query_width) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(piip, CUDA, classic_library) {
  classic_library.impl("deform_attn_classic_forward", TORCH_BOX(&classic_forward));
  classic_library.impl("deform_attn_classic_backward", TORCH_BOX(&classic_backward));
}
