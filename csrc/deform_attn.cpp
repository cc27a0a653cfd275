// PyTorch's side of deformable attention: checks, allocation, threads, choice of instruction set. The schemas are defined in
// piip/ops/deform_attn.py, which explains the arguments; this library only adds the CPU implementations. Stable ABI: no at::.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "deform_attn_kernel.h"
#include "isa.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const piip::Kernels& kernels() {
#if defined(__x86_64__)
  if (piip::best_isa() == piip::Isa::avx512) return piip::avx512::kernels;
  if (piip::best_isa() == piip::Isa::avx2) return piip::avx2::kernels;
#endif
  return piip::portable::kernels;
}

// `torch::stable::contiguous`, without a call through the dispatcher where there is nothing to do.
Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

piip::Array array(const Tensor& tensor, ScalarType arithmetic, const char* name) {
  const bool bf16 = tensor.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(tensor.scalar_type() == arithmetic || (bf16 && arithmetic == ScalarType::Float), name,
                  " must be float32 or bfloat16, or float64 like all the others");
  return {tensor.mutable_data_ptr(), bf16};
}

ScalarType arithmetic_of(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Groups of four heads: with four points each, a query's points fill a vector of 16, and its offsets whole cache lines. Eight
// (two independent vectors) where their planes still fit a core's L2 cache, fewer where threads would go without work: measured
// best of 1, 2, 4, 8. No result depends on it.
int64_t heads_per_group(const piip::Call& call, int64_t plane_bytes) {
  constexpr int64_t kPlanesBytes = 512 * 1024;
  const int64_t threads = torch::stable::get_num_threads();
  int64_t heads = std::min<int64_t>(call.heads, 8 * plane_bytes <= kPlanesBytes ? 8 : 4);
  while (heads > 1 && call.batch * ((call.heads + heads - 1) / heads) < threads) heads /= 2;
  return heads;
}

piip::Call describe(const Tensor& value, const Tensor& offsets, const Tensor& logits, int64_t value_height, int64_t value_width,
                    int64_t query_height, int64_t query_width) {
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) == value_height * value_width, "value must be (B, Hv * Wv, N, D)");
  STD_TORCH_CHECK(offsets.dim() == 5 && offsets.size(0) == value.size(0) && offsets.size(1) == query_height * query_width &&
                      offsets.size(2) == value.size(2) && offsets.size(4) == 2,
                  "offsets must be (B, Hq * Wq, N, P, 2)");
  STD_TORCH_CHECK(logits.dim() == 4 && logits.size(0) == offsets.size(0) && logits.size(1) == offsets.size(1) &&
                      logits.size(2) == offsets.size(2) && logits.size(3) == offsets.size(3),
                  "logits must be (B, Hq * Wq, N, P)");
  STD_TORCH_CHECK(logits.size(3) > 0, "a head needs at least one point");
  const ScalarType arithmetic = arithmetic_of(value);
  piip::Call call{};
  call.batch = value.size(0), call.heads = value.size(2), call.channels = value.size(3), call.points = logits.size(3);
  call.value_height = value_height, call.value_width = value_width;
  call.query_height = query_height, call.query_width = query_width;
  call.value = array(value, arithmetic, "value");
  call.offsets = array(offsets, arithmetic, "offsets");
  call.logits = array(logits, arithmetic, "logits");
  const int64_t pixels = (value_height + 2 * piip::kBorder) * (value_width + 2 * piip::kBorder);
  const int64_t plane = pixels * piip::padded_channels(call.channels);  // in the backward pass twice that
  call.heads_per_group = std::max<int64_t>(1, heads_per_group(call, plane * (arithmetic == ScalarType::Double ? 8 : 4)));
  STD_TORCH_CHECK(2 * plane * call.heads_per_group <= std::numeric_limits<int32_t>::max(), "a map of ", value_height, " x ",
                  value_width, " with ", call.channels, " channels a head is too large for 32-bit indices");
  return call;
}

void run(const piip::Call& call, piip::Work work) {
  torch::stable::parallel_for(0, call.batch * call.groups_per_image(), 1,
                              [&](int64_t begin, int64_t end) { work(call, begin, end); });
}

Tensor forward(Tensor value, Tensor offsets, Tensor logits, int64_t value_height, int64_t value_width, int64_t query_height,
               int64_t query_width) {
  value = dense(value);
  offsets = dense(offsets);
  logits = dense(logits);
  piip::Call call = describe(value, offsets, logits, value_height, value_width, query_height, query_width);
  const ScalarType arithmetic = arithmetic_of(value);
  Tensor out = torch::stable::new_empty(value, {call.batch, query_height * query_width, call.heads * call.channels});
  if (out.numel() == 0) return out;
  call.out = array(out, arithmetic, "out");
  run(call, arithmetic == ScalarType::Double ? kernels().forward_double : kernels().forward_float);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, int64_t value_height,
                                            int64_t value_width, int64_t query_height, int64_t query_width,
                                            bool /* deterministic: it is so anyway */) {
  grad_out = dense(grad_out);
  value = dense(value);
  offsets = dense(offsets);
  logits = dense(logits);
  piip::Call call = describe(value, offsets, logits, value_height, value_width, query_height, query_width);
  const ScalarType arithmetic = arithmetic_of(value);
  STD_TORCH_CHECK(grad_out.numel() == call.batch * query_height * query_width * call.heads * call.channels,
                  "grad_out must be (B, Hq * Wq, N * D)");
  Tensor grad_value = torch::stable::empty_like(value), grad_offsets = torch::stable::empty_like(offsets),
         grad_logits = torch::stable::empty_like(logits);
  if (grad_out.numel() == 0) {  // no query: nothing was read
    torch::stable::zero_(grad_value);
    torch::stable::zero_(grad_offsets);
    torch::stable::zero_(grad_logits);
    return {grad_value, grad_offsets, grad_logits};
  }
  call.grad_out = array(grad_out, arithmetic, "grad_out");
  call.grad_value = array(grad_value, arithmetic, "grad_value");
  call.grad_offsets = array(grad_offsets, arithmetic, "grad_offsets");
  call.grad_logits = array(grad_logits, arithmetic, "grad_logits");
  run(call, arithmetic == ScalarType::Double ? kernels().backward_double : kernels().backward_float);
  return {grad_value, grad_offsets, grad_logits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CPU, library) {
  library.impl("deform_attn_forward", TORCH_BOX(&forward));
  library.impl("deform_attn_backward", TORCH_BOX(&backward));
}
