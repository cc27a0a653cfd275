// What PyTorch's side of all ops shares on CUDA. Stable ABI and C shims only, no CUDA headers. Nothing here waits for the GPU, so calls
// can be captured in a CUDA graph.
#pragma once
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

namespace piip::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The kernels for a storage of value and output, and one of the points (`points`: their names, for errors).
template <class Kernels>
const Kernels& for_storage(const Tensor& value, const Tensor& location, const char* points, const Kernels& float_float,
                           const Kernels& half_half, const Kernels& half_float, const Kernels& bfloat_bfloat,
                           const Kernels& bfloat_float) {
  const ScalarType v = value.scalar_type(), l = location.scalar_type();
  if (v == ScalarType::Float && l == ScalarType::Float) return float_float;
  if (v == ScalarType::Half && l == ScalarType::Half) return half_half;
  if (v == ScalarType::Half && l == ScalarType::Float) return half_float;
  if (v == ScalarType::BFloat16 && l == ScalarType::BFloat16) return bfloat_bfloat;
  STD_TORCH_CHECK(v == ScalarType::BFloat16 && l == ScalarType::Float, "value must be float32, float16 or bfloat16; ", points,
                  " of one dtype, float32 or value's");
  return bfloat_float;
}

// As the kernels read it: contiguous, and aligned for loads of 16 bytes (a slice may begin anywhere).
inline Tensor readable(const Tensor& tensor) {
  const Tensor whole = torch::stable::contiguous(tensor);
  return reinterpret_cast<std::uintptr_t>(whole.const_data_ptr()) % 16 ? torch::stable::clone(whole) : whole;
}

inline void check_one_gpu(const Tensor& value, std::initializer_list<const Tensor*> others) {
  for (const Tensor* tensor : others)
    STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == value.get_device_index(), "all tensors must be on one GPU");
}

// What fits the grid of blocks and the kernels' 32-bit numbers.
inline void check_size(int64_t batch, int64_t pixels, int64_t queries, int64_t width) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max(), kGrid = 65535;
  STD_TORCH_CHECK(batch <= kGrid, "a batch of ", batch, " is too large: at most ", kGrid, ", split it");
  STD_TORCH_CHECK(pixels <= kLargest && queries <= kLargest && width <= kLargest,
                  "pixels, queries, and heads times channels, must each be below 2^31");
}

// launch(calls..., stream)
template <class Launch, class... Calls>
void start(Launch launch, const Tensor& on, const char* op, const Calls&... calls) {
  void* stream = nullptr;
  const auto found = aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream);
  STD_TORCH_CHECK(found == AOTI_TORCH_SUCCESS, "PyTorch names no stream of GPU ", on.get_device_index());
  const char* error = launch(calls..., stream);
  STD_TORCH_CHECK(error == nullptr, "CUDA refused to start ", op, ": ", error);
}

// The value's gradient, and what it is added up in: itself if that is float32, else more digits, zeros at first. `largest`: room for
// the size of gradients and of weights, which sums in fixed point ask for.
struct __attribute__((visibility("hidden"))) ValueGradient {
  Tensor sums, gradient, largest;
  ValueGradient(const Tensor& value, bool fixed_point)
      : sums(torch::stable::new_zeros(value, value.sizes(), fixed_point ? ScalarType::Long : ScalarType::Float)),
        gradient(value.scalar_type() == sums.scalar_type() ? sums : torch::stable::empty_like(value)),
        largest(torch::stable::new_zeros(value, {fixed_point ? 2 : 0}, ScalarType::Int)) {}

  template <class Call>
  void attach(Call& call, bool fixed_point) {
    call.sums = sums.mutable_data_ptr(), call.grad_value = gradient.mutable_data_ptr();
    call.largest = fixed_point ? static_cast<uint32_t*>(largest.mutable_data_ptr()) : nullptr;
  }
};

}  // namespace piip::cuda
