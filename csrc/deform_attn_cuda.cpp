// PyTorch's side of deformable attention on CUDA: checks and allocation. Schemas and arguments: piip/ops/deform_attn.py and
// deform_attn_packed.py.
#include "deform_attn_cuda.h"

#include <vector>

#include "cuda_torch.h"

namespace {

using namespace piip::cuda;

const Kernels& kernels(const Tensor& value, const Tensor& location) {
  return for_storage(value, location, "offsets and logits", float_float, half_half, half_float, bfloat_bfloat, bfloat_float);
}

struct Shape {
  int64_t value_height, value_width, query_height, query_width;
};

// All of a call but its points.
Call describe(const Tensor& value, int64_t queries, int64_t points, const Shape& shape) {
  STD_TORCH_CHECK(value.dim() == 4 && value.size(1) == shape.value_height * shape.value_width, "value must be (B, Hv * Wv, N, D)");
  STD_TORCH_CHECK(queries == shape.query_height * shape.query_width, "there must be Hq * Wq queries, got ", queries);
  STD_TORCH_CHECK(points > 0, "a head needs at least one point");
  check_size(value.size(0), value.size(1), queries, value.size(2) * value.size(3));
  Call call{};
  call.batch = value.size(0), call.heads = value.size(2), call.channels = value.size(3), call.points = points;
  call.value_height = shape.value_height, call.value_width = shape.value_width;
  call.query_height = shape.query_height, call.query_width = shape.query_width;
  call.value = value.const_data_ptr();
  return call;
}

Call describe_apart(const Tensor& value, const Tensor& offsets, const Tensor& logits, const Shape& shape) {
  STD_TORCH_CHECK(offsets.dim() == 5 && offsets.size(0) == value.size(0) && offsets.size(2) == value.size(2) && offsets.size(4) == 2,
                  "offsets must be (B, Hq * Wq, N, P, 2)");
  STD_TORCH_CHECK(logits.dim() == 4 && logits.size(0) == offsets.size(0) && logits.size(1) == offsets.size(1) &&
                      logits.size(2) == offsets.size(2) && logits.size(3) == offsets.size(3),
                  "logits must be (B, Hq * Wq, N, P)");
  STD_TORCH_CHECK(offsets.scalar_type() == logits.scalar_type(), "offsets and logits must be of one dtype");
  check_one_gpu(value, {&offsets, &logits});
  Call call = describe(value, offsets.size(1), logits.size(3), shape);
  call.offsets = offsets.const_data_ptr(), call.logits = logits.const_data_ptr();
  call.offsets_row = 2 * call.heads * call.points, call.logits_row = call.heads * call.points;
  call.aligned = 1;  // four points of a head are as long as a load
  return call;
}

// The logits of a packed tensor lie behind all offsets of the query.
const void* behind_offsets(const Call& call, const Tensor& packed) {
  return static_cast<const char*>(packed.const_data_ptr()) + 2 * call.heads * call.points * packed.element_size();
}

Call describe_packed(const Tensor& value, const Tensor& packed, const Shape& shape) {
  const int64_t heads = value.dim() == 4 ? value.size(2) : 0;
  STD_TORCH_CHECK(packed.dim() == 3 && packed.size(0) == value.size(0) && heads > 0 && packed.size(2) % (3 * heads) == 0,
                  "packed must be (B, Hq * Wq, 3 * N * P)");
  check_one_gpu(value, {&packed});
  Call call = describe(value, packed.size(1), packed.size(2) / (3 * heads), shape);
  call.offsets = packed.const_data_ptr(), call.logits = behind_offsets(call, packed);
  call.offsets_row = call.logits_row = packed.size(2);
  call.aligned = packed.size(2) * packed.element_size() % 16 == 0;
  return call;
}

Tensor room_for_out(Call& call, const Tensor& value) {
  Tensor out = torch::stable::new_empty(value, {call.batch, call.query_height * call.query_width, call.heads * call.channels});
  call.out = out.mutable_data_ptr();
  return out;
}

Tensor run_forward(const Kernels& kernels, Call& call, const Tensor& value) {
  Tensor out = room_for_out(call, value);
  if (out.numel() == 0) return out;
  if (value.numel() == 0) return torch::stable::zero_(out);
  start(kernels.forward, value, "deform_attn", call);
  return out;
}

Sums sums_for(const Kernels& kernels, const Call& call, bool deterministic) {
  return !deterministic ? Sums::floats : kernels.planes_fit(call) ? Sums::planes : Sums::integers;
}

void take_grad_out(Call& call, const Tensor& grad_out, const Tensor& value) {
  check_one_gpu(value, {&grad_out});
  STD_TORCH_CHECK(grad_out.scalar_type() == value.scalar_type() &&
                      grad_out.numel() == call.batch * call.query_height * call.query_width * call.heads * call.channels,
                  "grad_out must be (B, Hq * Wq, N * D), of value's dtype");
  call.grad_out = grad_out.const_data_ptr();
}

// Fills the gradients of offsets and logits that `call` knows, and sets that of the value; false where nothing was read.
bool run_backward(const Kernels& kernels, Call& call, const Tensor& grad_out, const Tensor& value, Sums kind, Tensor& grad_value) {
  take_grad_out(call, grad_out, value);
  const bool in_memory = kind != Sums::planes;
  ValueGradient sums(in_memory ? value : torch::stable::new_empty(value, {0}), kind == Sums::integers);
  grad_value = in_memory ? sums.gradient : torch::stable::empty_like(value);
  if (grad_out.numel() == 0 || value.numel() == 0) {
    torch::stable::zero_(grad_value);
    return false;
  }
  const int64_t points = call.batch * call.query_height * call.query_width * call.heads * call.points;
  Tensor kept = torch::stable::new_empty(value, {special(call) ? 0 : points}, ScalarType::Float);
  sums.attach(call, kind == Sums::integers);
  call.kind = kind, call.grad_value = grad_value.mutable_data_ptr(), call.kept = static_cast<float*>(kept.mutable_data_ptr());
  start(kernels.backward, value, "deform_attn", call);
  return true;
}

std::tuple<Tensor, Tensor, Tensor> backward_apart(const Kernels& kernels, Call call, const Tensor& grad_out, const Tensor& value,
                                                  const Tensor& offsets, const Tensor& logits, Sums kind) {
  Tensor grad_value = value, grad_offsets = torch::stable::empty_like(offsets), grad_logits = torch::stable::empty_like(logits);
  call.grad_offsets = grad_offsets.mutable_data_ptr(), call.grad_logits = grad_logits.mutable_data_ptr();
  if (!run_backward(kernels, call, grad_out, value, kind, grad_value))
    for (Tensor* gradient : {&grad_offsets, &grad_logits}) torch::stable::zero_(*gradient);
  return {grad_value, grad_offsets, grad_logits};
}

Tensor forward(Tensor value, Tensor offsets, Tensor logits, int64_t value_height, int64_t value_width, int64_t query_height,
               int64_t query_width) {
  const DeviceGuard guard(value.get_device_index());
  value = readable(value), offsets = readable(offsets), logits = readable(logits);
  Call call = describe_apart(value, offsets, logits, {value_height, value_width, query_height, query_width});
  return run_forward(kernels(value, offsets), call, value);
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, int64_t value_height,
                                            int64_t value_width, int64_t query_height, int64_t query_width, bool deterministic) {
  const DeviceGuard guard(value.get_device_index());
  grad_out = readable(grad_out), value = readable(value), offsets = readable(offsets), logits = readable(logits);
  const Call call = describe_apart(value, offsets, logits, {value_height, value_width, query_height, query_width});
  const Kernels& chosen = kernels(value, offsets);
  return backward_apart(chosen, call, grad_out, value, offsets, logits, sums_for(chosen, call, deterministic));
}

Tensor forward_packed(Tensor value, Tensor packed, int64_t value_height, int64_t value_width, int64_t query_height,
                      int64_t query_width) {
  const DeviceGuard guard(value.get_device_index());
  value = readable(value), packed = readable(packed);
  Call call = describe_packed(value, packed, {value_height, value_width, query_height, query_width});
  return run_forward(kernels(value, packed), call, value);
}

// The gradient of packed, which `call` then knows.
Tensor room_for_packed(Call& call, const Tensor& packed) {
  Tensor gradient = torch::stable::empty_like(packed);
  call.grad_offsets = gradient.mutable_data_ptr(), call.grad_logits = const_cast<void*>(behind_offsets(call, gradient));
  return gradient;
}

std::tuple<Tensor, Tensor> backward_packed(Tensor grad_out, Tensor value, Tensor packed, int64_t value_height, int64_t value_width,
                                           int64_t query_height, int64_t query_width, bool deterministic) {
  const DeviceGuard guard(value.get_device_index());
  grad_out = readable(grad_out), value = readable(value), packed = readable(packed);
  Call call = describe_packed(value, packed, {value_height, value_width, query_height, query_width});
  Tensor grad_value = value, grad_packed = room_for_packed(call, packed);
  const Kernels& chosen = kernels(value, packed);
  if (!run_backward(chosen, call, grad_out, value, sums_for(chosen, call, deterministic), grad_value)) torch::stable::zero_(grad_packed);
  return {grad_value, grad_packed};
}

// A unit's two directions: sizes are those of forward_packed for the one, then for the other.
struct Pair {
  Call one, other;
  const Kernels& chosen;
  bool together;
  Pair(const Tensor& value, const Tensor& packed, const Tensor& other_value, const Tensor& other_packed, const std::vector<int64_t>& hw)
      : one(describe_packed(value, packed, shape(hw, 0))),
        other(describe_packed(other_value, other_packed, shape(hw, 4))),
        chosen(kernels(value, packed)),
        together(&chosen == &kernels(other_value, other_packed) && value.numel() && packed.numel() && other_value.numel() &&
                 other_packed.numel() && paired(one, other)) {
    check_one_gpu(value, {&other_value});
  }
  static Shape shape(const std::vector<int64_t>& hw, size_t at) {
    STD_TORCH_CHECK(hw.size() == 8, "a pair takes eight sizes");
    return {hw[at], hw[at + 1], hw[at + 2], hw[at + 3]};
  }
};

std::tuple<Tensor, Tensor> forward_pair(Tensor value, Tensor packed, Tensor other_value, Tensor other_packed, std::vector<int64_t> hw) {
  const DeviceGuard guard(value.get_device_index());
  for (Tensor* tensor : {&value, &packed, &other_value, &other_packed}) *tensor = readable(*tensor);
  Pair pair(value, packed, other_value, other_packed, hw);
  if (!pair.together)
    return {run_forward(pair.chosen, pair.one, value), run_forward(kernels(other_value, other_packed), pair.other, other_value)};
  Tensor out = room_for_out(pair.one, value), other_out = room_for_out(pair.other, other_value);
  start(pair.chosen.forward_pair, value, "deform_attn", pair.one, pair.other);
  return {out, other_out};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_pair(Tensor grad_out, Tensor other_grad_out, Tensor value, Tensor packed,
                                                         Tensor other_value, Tensor other_packed, std::vector<int64_t> hw,
                                                         bool deterministic) {
  const DeviceGuard guard(value.get_device_index());
  for (Tensor* tensor : {&grad_out, &other_grad_out, &value, &packed, &other_value, &other_packed}) *tensor = readable(*tensor);
  Pair pair(value, packed, other_value, other_packed, hw);
  if (!pair.together || deterministic) {
    auto [first, second] = backward_packed(grad_out, value, packed, hw[0], hw[1], hw[2], hw[3], deterministic);
    auto [third, fourth] = backward_packed(other_grad_out, other_value, other_packed, hw[4], hw[5], hw[6], hw[7], deterministic);
    return {first, second, third, fourth};
  }
  take_grad_out(pair.one, grad_out, value), take_grad_out(pair.other, other_grad_out, other_value);
  Tensor grad_packed = room_for_packed(pair.one, packed), other_grad_packed = room_for_packed(pair.other, other_packed);
  // Other dtypes than float32 are added up in zeros for both, one after the other.
  const bool own = value.scalar_type() == ScalarType::Float;
  const int64_t first = (value.numel() + 3) / 4 * 4;  // the second begins at a multiple of 16 bytes
  Tensor sums = torch::stable::new_zeros(value, {own ? 0 : first + other_value.numel()}, ScalarType::Float);
  const auto room = [&](Call& call, const Tensor& of, int64_t at) {
    Tensor gradient = own ? torch::stable::new_zeros(of, of.sizes()) : torch::stable::empty_like(of);
    call.kind = Sums::floats, call.grad_value = gradient.mutable_data_ptr();
    call.sums = own ? call.grad_value : static_cast<float*>(sums.mutable_data_ptr()) + at;
    return gradient;
  };
  Tensor grad_value = room(pair.one, value, 0), other_grad_value = room(pair.other, other_value, first);
  start(pair.chosen.backward_pair, value, "deform_attn", pair.one, pair.other);
  return {grad_value, grad_packed, other_grad_value, other_grad_packed};
}

// backward with the sums of one's choice, 0, 1 and 2 as in deform_attn_cuda.h, for experiments/benchmarks.
std::tuple<Tensor, Tensor, Tensor> backward_sums(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, int64_t value_height,
                                                 int64_t value_width, int64_t query_height, int64_t query_width, int64_t sums) {
  const DeviceGuard guard(value.get_device_index());
  grad_out = readable(grad_out), value = readable(value), offsets = readable(offsets), logits = readable(logits);
  const Call call = describe_apart(value, offsets, logits, {value_height, value_width, query_height, query_width});
  const Kernels& chosen = kernels(value, offsets);
  STD_TORCH_CHECK(0 <= sums && sums <= 2 && (Sums(sums) != Sums::planes || chosen.planes_fit(call)), "no such sums, or they do not fit");
  return backward_apart(chosen, call, grad_out, value, offsets, logits, Sums(sums));
}

// The classic design, for experiments/benchmarks: locations in [0, 1] for offsets, weights after the softmax for logits. float32.
Tensor classic_forward(Tensor value, Tensor locations, Tensor weights, int64_t value_height, int64_t value_width,
                       int64_t query_height, int64_t query_width) {
  const DeviceGuard guard(value.get_device_index());
  Call call = describe_apart(value, locations, weights, {value_height, value_width, query_height, query_width});
  STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float && locations.scalar_type() == ScalarType::Float, "float32 only");
  return run_forward(classic, call, value);
}

std::tuple<Tensor, Tensor, Tensor> classic_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights,
                                                    int64_t value_height, int64_t value_width, int64_t query_height,
                                                    int64_t query_width) {
  const DeviceGuard guard(value.get_device_index());
  const Call call = describe_apart(value, locations, weights, {value_height, value_width, query_height, query_width});
  return backward_apart(classic, call, grad_out, value, locations, weights, Sums::floats);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(piip, CUDA, library) {
  library.impl("deform_attn_forward", TORCH_BOX(&forward));
  library.impl("deform_attn_backward", TORCH_BOX(&backward));
  library.impl("deform_attn_packed_forward", TORCH_BOX(&forward_packed));
  library.impl("deform_attn_packed_backward", TORCH_BOX(&backward_packed));
  library.impl("deform_attn_pair_forward", TORCH_BOX(&forward_pair));
  library.impl("deform_attn_pair_backward", TORCH_BOX(&backward_pair));
}

STABLE_TORCH_LIBRARY_FRAGMENT(piip, library) {
  library.def(
      "deform_attn_classic_forward(Tensor value, Tensor locations, Tensor weights, SymInt value_height, SymInt value_width, "
      "SymInt query_height, SymInt query_width) -> Tensor");
  library.def(
      "deform_attn_classic_backward(Tensor grad_out, Tensor value, Tensor locations, Tensor weights, SymInt value_height, "
      "SymInt value_width, SymInt query_height, SymInt query_width) -> (Tensor, Tensor, Tensor)");
  library.def(
      "deform_attn_sums_backward(Tensor grad_out, Tensor value, Tensor offsets, Tensor logits, SymInt value_height, "
      "SymInt value_width, SymInt query_height, SymInt query_width, int sums) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(piip, CUDA, benchmark_library) {
  benchmark_library.impl("deform_attn_classic_forward", TORCH_BOX(&classic_forward));
  benchmark_library.impl("deform_attn_classic_backward", TORCH_BOX(&classic_backward));
  benchmark_library.impl("deform_attn_sums_backward", TORCH_BOX(&backward_sums));
}
