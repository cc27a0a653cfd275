// Launches of the CUDA kernels for one storage: PIIP_VALUE and PIIP_LOCATION are types of deform_attn_cuda_types.h, PIIP_STORAGE the
// name of the pair. Compiled by nvcc once per storage; by a C++ compiler in tests/ops, which run the kernels on the CPU.
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <algorithm>
#include <type_traits>

#include "deform_attn_cuda.h"
#include "deform_attn_cuda_kernel.h"

namespace piip::cuda {
namespace {

using T = PIIP_VALUE;
using L = PIIP_LOCATION;

template <class Storage>
const typename Storage::Item* in(const void* pointer) {
  return static_cast<const typename Storage::Item*>(pointer);
}
template <class Storage>
typename Storage::Item* out(void* pointer) {
  return static_cast<typename Storage::Item*>(pointer);
}

#ifdef __CUDACC__
// Threads next to each other in x, `lanes` at a time, exchange what they have.
template <class... Parameters, class... Arguments>
void launch(int lanes, void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  (void)lanes;
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
}
#endif

Sizes sizes_of(const Call& call) {
  Sizes sizes{};
  sizes.value_height = call.value_height, sizes.value_width = call.value_width;
  sizes.query_width = call.query_width, sizes.queries = call.query_height * call.query_width;
  sizes.heads = call.heads, sizes.channels = call.channels, sizes.points = call.points;
  sizes.step_x = static_cast<double>(call.value_width) / call.query_width;
  sizes.step_y = static_cast<double>(call.value_height) / call.query_height;
  const auto bits = [](int64_t n) {  // the smallest with n <= 2^bits
    int bits = 0;
    while ((int64_t{1} << bits) < n) ++bits;
    return bits;
  };
  sizes.count_bits = bits(sizes.queries);
  sizes.divide_shift = bits(sizes.query_width);  // Granlund and Montgomery, 1994, figure 4.1
  sizes.divide_by = (((uint64_t{1} << sizes.divide_shift) - sizes.query_width) << 32) / sizes.query_width + 1;
  return sizes;
}

// Blocks of heads x queries of one image.
template <int D>
struct Grid {
  static constexpr int kLanes = Layout<T, D>::kThreadsPerHead;
  dim3 grid, block;
  explicit Grid(const Call& call) {
    const int64_t heads = std::min<int64_t>(call.heads, kThreads / kLanes), queries = call.query_height * call.query_width;
    block = dim3(heads * kLanes, kThreads / (heads * kLanes), 1);
    grid = dim3((queries + block.y - 1) / block.y, (call.heads + heads - 1) / heads, call.batch);
  }
};

// run(D, P) for special() calls, run(0, 0) for the rest.
template <class Run>
void for_sizes(const Call& call, Run run) {
  const auto with = [&](auto channels) { run(channels, std::integral_constant<int, decltype(channels)::value ? 4 : 0>{}); };
  switch (special(call) ? call.channels : 0) {
    case 6: return with(std::integral_constant<int, 6>{});
    case 12: return with(std::integral_constant<int, 12>{});
    case 24: return with(std::integral_constant<int, 24>{});
    case 32: return with(std::integral_constant<int, 32>{});
    case 40: return with(std::integral_constant<int, 40>{});
    case 100: return with(std::integral_constant<int, 100>{});
    default: return with(std::integral_constant<int, 0>{});
  }
}

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* forward(const Call& call, void* stream) {
  for_sizes(call, [&](auto channels, auto points) {
    constexpr int D = decltype(channels)::value, P = decltype(points)::value;
    const Grid<D> grid(call);
    launch(grid.kLanes, forward_kernel<T, L, D, P>, grid.grid, grid.block, stream, sizes_of(call), in<T>(call.value),
           in<L>(call.offsets), in<L>(call.logits), out<T>(call.out));
  });
  return last_error();
}

template <class Sum>
void backward_with(const Call& call, void* stream) {
  auto* sums = static_cast<Sum*>(call.sums);
  const int64_t pixels = call.batch * call.value_height * call.value_width * call.heads * call.channels;
  const int64_t outputs = call.batch * call.query_height * call.query_width * call.heads * call.channels;
  const auto blocks = [](int64_t count) { return dim3(std::min<int64_t>((count + kThreads - 1) / kThreads, 1024), 1, 1); };
  if (call.largest)
    launch(32, largest_kernel<T>, blocks(outputs), dim3(kThreads, 1, 1), stream, in<T>(call.grad_out), outputs, call.largest);
  for_sizes(call, [&](auto channels, auto points) {
    constexpr int D = decltype(channels)::value, P = decltype(points)::value;
    using GradLogits = std::conditional_t<P == 0, Float, L>;
    const Grid<D> grid(call);
    launch(grid.kLanes, backward_kernel<T, L, D, P, Sum, GradLogits>, grid.grid, grid.block, stream, sizes_of(call),
           in<T>(call.grad_out), in<T>(call.value), in<L>(call.offsets), in<L>(call.logits), sums, out<L>(call.grad_offsets),
           out<GradLogits>(call.grad_logits), static_cast<const uint32_t*>(call.largest));
  });
  if (call.sums != call.grad_value)
    launch(1, round_kernel<T, Sum>, blocks(pixels), dim3(kThreads, 1, 1), stream, static_cast<const Sum*>(sums), pixels,
           static_cast<const uint32_t*>(call.largest), sizes_of(call).count_bits, out<T>(call.grad_value));
}

const char* backward(const Call& call, void* stream) {
  call.largest ? backward_with<int64_t>(call, stream) : backward_with<float>(call, stream);
  return last_error();
}

}  // namespace

extern const Kernels PIIP_STORAGE = {forward, backward};

}  // namespace piip::cuda
