// csrc/deform_attn_cuda.cu as a library of the CPU, for test_deform_attn_cuda_on_host.py.
#include "cuda_on_host.h"

#include "deform_attn_cuda.cu"

extern "C" void forward(const piip::cuda::Call* call) { piip::cuda::PIIP_STORAGE.forward(*call, nullptr); }
extern "C" void backward(const piip::cuda::Call* call) { piip::cuda::PIIP_STORAGE.backward(*call, nullptr); }
