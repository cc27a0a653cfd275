// PyTorch's side of the CUDA ops as a library that takes tensors of the CPU, for test_cuda_torch_on_host.py. Its ops are called
// piip_on_host::<op>; the kernels behind them are those of cuda_on_host.cpp, compiled with -Dpiip=piip_on_host.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace torch::stable::accelerator {
struct HostGuard {
  explicit HostGuard(int64_t) {}
};
}  // namespace torch::stable::accelerator

#define DeviceGuard HostGuard
#define is_cuda is_cpu
#define aoti_torch_get_current_cuda_stream(device, stream) (*(stream) = nullptr, AOTI_TORCH_SUCCESS)
#define CUDA CPU

#include "deform_attn_cuda.cpp"
#include "sampling_cuda.cpp"

namespace piip::cuda {
extern const Kernels classic = {};
}
