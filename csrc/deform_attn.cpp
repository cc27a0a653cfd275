// PyTorch's side of deformable attention: checks, allocation, threads, choice of instruction set. The schemas are defined in
// piip/ops/deform_attn.py and deform_attn_packed.py, which explain the arguments; this library only adds the CPU implementations. Stable ABI: no at::.
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

bool multiplies_bf16(const piip::Call& call) { return piip::best_isa() == piip::Isa::avx512bf16 && call.bf16_narrow(); }

const piip::Kernels& kernels(const piip::Call& call, bool in_double) {
  if (in_double) return piip::portable::kernels_double;
#if defined(__x86_64__)
  if (multiplies_bf16(call)) return piip::avx512bf16::kernels;
  const piip::Isa isa = piip::best_isa();
  if (isa >= piip::Isa::avx512) return piip::avx512::kernels;
  if (isa == piip::Isa::avx2) return piip::avx2::kernels;
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

// The logits of a packed tensor lie behind all offsets of the query.
piip::Array behind_offsets(const piip::Call& call, piip::Array offsets, ScalarType arithmetic) {
  const int64_t bytes = offsets.bf16 ? 2 : arithmetic == ScalarType::Double ? 8 : 4;
  return {static_cast<char*>(offsets.data) + 2 * call.heads * call.points * bytes, offsets.bf16};
}

// Groups of four heads: with four points each, a query's points fill a vector of 16, and its offsets whole cache lines. Eight
// (two independent vectors) where their planes still fit a core's L2 cache, and for up to 8 channels, up to 16 for the forward pass in
// fp32; fewer where threads would go without work: measured best of 1, 2, 4, 8, 16. No result depends on it.
int64_t heads_per_group(const piip::Call& call, int64_t plane_bytes, bool gradients) {
  constexpr int64_t kPlanesBytes = 512 * 1024;
  const int64_t threads = torch::stable::get_num_threads();
  const bool eight = 8 * plane_bytes <= kPlanesBytes || call.channels <= (gradients || multiplies_bf16(call) ? 8 : 16);
  int64_t heads = std::min<int64_t>(call.heads, eight ? 8 : 4);
  while (heads > 1 && call.batch * ((call.heads + heads - 1) / heads) < threads) heads /= 2;
  return heads;
}

// A call but for offsets and logits, and the groups of heads.
piip::Call describe(const Tensor& value, int64_t queries, int64_t points, int64_t value_height, int64_t value_width,
                    int64_t query_height, int64_t query_width) {
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) == value_height * value_width, "value must be (B, Hv * Wv, N, D)");
  STD_TORCH_CHECK(queries == query_height * query_width, "there must be Hq * Wq queries");
  STD_TORCH_CHECK(points > 0, "a head needs at least one point");
  const ScalarType arithmetic = arithmetic_of(value);
  piip::Call call{};
  call.batch = value.size(0), call.heads = value.size(2), call.channels = value.size(3), call.points = points;
  call.value_height = value_height, call.value_width = value_width;
  call.query_height = query_height, call.query_width = query_width;
  call.value = array(value, arithmetic, "value");
  return call;
}

piip::Call describe_apart(const Tensor& value, const Tensor& offsets, const Tensor& logits, int64_t value_height,
                          int64_t value_width, int64_t query_height, int64_t query_width) {
  STD_TORCH_CHECK(logits.dim() == 4 && logits.size(0) == value.size(0) && logits.size(2) == value.size(2),
                  "logits must be (B, Hq * Wq, N, P)");
  STD_TORCH_CHECK(offsets.dim() == 5 && offsets.size(0) == logits.size(0) && offsets.size(1) == logits.size(1) &&
                      offsets.size(2) == logits.size(2) && offsets.size(3) == logits.size(3) && offsets.size(4) == 2,
                  "offsets must be (B, Hq * Wq, N, P, 2)");
  piip::Call call = describe(value, logits.size(1), logits.size(3), value_height, value_width, query_height, query_width);
  call.offsets = array(offsets, arithmetic_of(value), "offsets");
  call.logits = array(logits, arithmetic_of(value), "logits");
  call.offsets_row = 2 * call.heads * call.points, call.logits_row = call.heads * call.points;
  return call;
}

piip::Call describe_packed(const Tensor& value, const Tensor& packed, int64_t value_height, int64_t value_width,
                           int64_t query_height, int64_t query_width) {
  STD_TORCH_CHECK(packed.dim() == 3 && packed.size(0) == value.size(0) && packed.size(2) % (3 * value.size(2)) == 0,
                  "packed must be (B, Hq * Wq, 3 * N * P)");
  piip::Call call = describe(value, packed.size(1), packed.size(2) / (3 * value.size(2)), value_height, value_width,
                             query_height, query_width);
  call.offsets = array(packed, arithmetic_of(value), "packed");
  call.logits = behind_offsets(call, call.offsets, arithmetic_of(value));
  call.offsets_row = call.logits_row = packed.size(2);
  return call;
}

void run(piip::Call& call, bool gradients, bool in_double) {
  const int64_t pixels = (call.value_height + 2 * piip::kBorder) * (call.value_width + 2 * piip::kBorder);
  const int64_t plane = pixels * piip::padded_channels(call.channels);
  call.heads_per_group = heads_per_group(call, plane * (in_double ? 8 : 4), gradients);
  STD_TORCH_CHECK(plane * call.heads_per_group * (gradients ? 2 : 1) <= std::numeric_limits<int32_t>::max(), "a map of ",
                  call.value_height, " x ", call.value_width, " with ", call.channels,
                  " channels a head is too large for 32-bit indices");
  const piip::Work work = gradients ? kernels(call, in_double).backward : kernels(call, in_double).forward;
  // A second thread is not worth waking for 30 us of work.
  const int64_t channels = call.batch * call.heads * call.channels;
  const int64_t reads = channels * (call.queries() * call.points + call.value_height * call.value_width);
  const int64_t groups = call.batch * call.groups_per_image();
  const int64_t grain = reads < 100000 ? groups : 1;
  torch::stable::parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) { work(call, begin, end); });
}

Tensor run_forward(piip::Call& call, const Tensor& value) {
  Tensor out = torch::stable::new_empty(value, {call.batch, call.queries(), call.heads * call.channels});
  if (out.numel() == 0) return out;
  call.out = array(out, arithmetic_of(value), "out");
  run(call, false, arithmetic_of(value) == ScalarType::Double);
  return out;
}

// Fills `grad_value` and those that `call` already knows.
void run_backward(piip::Call& call, const Tensor& grad_out, const Tensor& value, const Tensor& grad_value) {
  STD_TORCH_CHECK(grad_out.numel() == call.batch * call.queries() * call.heads * call.channels,
                  "grad_out must be (B, Hq * Wq, N * D)");
  call.grad_out = array(grad_out, arithmetic_of(value), "grad_out");
  call.grad_value = array(grad_value, arithmetic_of(value), "grad_value");
  run(call, true, arithmetic_of(value) == ScalarType::Double);
}

Tensor forward(Tensor value, Tensor offsets, Tensor logits, int64_t value_height, int64_t value_width, int64_t query_height,
               int64_t query_width) {
  value = dense(value), offsets = dense(offsets), logits = dense(logits);
  piip::Call call = describe_apart(value, offsets, logits, value_height, value_width, query_height, query_width);
  return run_forward(call, value);
}

Tensor forward_packed(Tensor value, Tensor packed, int64_t value_height, int64_t value_width, int64_t query_height,
                      int64_t query_width) {
  value = dense(value), packed = dense(packed);
  piip::Call call = describe_packed(value, packed, value_height, value_width, query_height, query_width);
  return run_forward(call, value);
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, int64_t value_height,
                                            int64_t value_width, int64_t query_height, int64_t query_width,
                                            bool /* deterministic: it is so anyway */) {
  grad_out = dense(grad_out), value = dense(value), offsets = dense(offsets), logits = dense(logits);
  piip::Call call = describe_apart(value, offsets, logits, value_height, value_width, query_height, query_width);
  Tensor grad_value = torch::stable::empty_like(value), grad_offsets = torch::stable::empty_like(offsets),
         grad_logits = torch::stable::empty_like(logits);
  call.grad_offsets = array(grad_offsets, arithmetic_of(value), "grad_offsets");
  call.grad_logits = array(grad_logits, arithmetic_of(value), "grad_logits");
  if (grad_out.numel() == 0) {  // no query: nothing was read
    for (Tensor* gradient : {&grad_value, &grad_offsets, &grad_logits}) torch::stable::zero_(*gradient);
  } else {
    run_backward(call, grad_out, value, grad_value);
  }
  return {grad_value, grad_offsets, grad_logits};
}

std::tuple<Tensor, Tensor> backward_packed(Tensor grad_out, Tensor value, Tensor packed, int64_t value_height,
                                           int64_t value_width, int64_t query_height, int64_t query_width,
                                           bool /* deterministic: it is so anyway */) {
  grad_out = dense(grad_out), value = dense(value), packed = dense(packed);
  piip::Call call = describe_packed(value, packed, value_height, value_width, query_height, query_width);
  Tensor grad_value = torch::stable::empty_like(value), grad_packed = torch::stable::empty_like(packed);
  call.grad_offsets = array(grad_packed, arithmetic_of(value), "grad_packed");
  call.grad_logits = behind_offsets(call, call.grad_offsets, arithmetic_of(value));
  if (grad_out.numel() == 0) {  // no query: nothing was read
    for (Tensor* gradient : {&grad_value, &grad_packed}) torch::stable::zero_(*gradient);
  } else {
    run_backward(call, grad_out, value, grad_value);
  }
  return {grad_value, grad_packed};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CPU, library) {
  library.impl("deform_attn_forward", TORCH_BOX(&forward));
  library.impl("deform_attn_backward", TORCH_BOX(&backward));
  library.impl("deform_attn_packed_forward", TORCH_BOX(&forward_packed));
  library.impl("deform_attn_packed_backward", TORCH_BOX(&backward_packed));
}
