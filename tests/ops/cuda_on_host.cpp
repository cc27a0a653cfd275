// csrc/deform_attn_cuda.cu and sampling_cuda.cu for the CPU: as a library with two functions for test_*_cuda_on_host.py, or, without
// them, as a part of cuda_torch_on_host.cpp's.
#include "cuda_on_host.h"

#if PIIP_SAMPLING
#include "sampling_cuda.cu"
namespace piip_op = piip::cuda::sampling;
#else
#include "deform_attn_cuda.cu"
namespace piip_op = piip::cuda;
#endif

namespace piip::cuda {
__attribute__((weak)) int32_t piip_block_memory[227 * 256];  // what blocks share, one after the other; not zero when they begin
}

#if !PIIP_WITH_TORCH
extern "C" void forward(const piip_op::Call* call) { piip_op::PIIP_STORAGE.forward(*call, nullptr); }
extern "C" void backward(const piip_op::Call* call) { piip_op::PIIP_STORAGE.backward(*call, nullptr); }
#if !PIIP_SAMPLING
extern "C" bool paired(const piip_op::Call* one, const piip_op::Call* other) { return piip_op::paired(*one, *other); }
extern "C" bool planes_fit(const piip_op::Call* call) { return piip_op::PIIP_STORAGE.planes_fit(*call); }
#endif
#endif
