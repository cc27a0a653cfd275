// Launches of the CUDA kernels of msda and dcnv3 for one storage, compiled as deform_attn_cuda.cu.
#include "cuda_launch.h"
#include "sampling_cuda.h"
#include "sampling_cuda_points.h"

namespace piip::cuda::sampling {
namespace {

using T = PIIP_VALUE;
using L = PIIP_LOCATION;
using Points = Placed<L>;

Sizes sizes_of(const Call& call) {
  return grid_sizes(call.pixels, call.query_height, call.query_width, call.heads, call.channels, call.points, call.points);
}

Points::Given given(const Call& call) {
  Points::Given given{in<L>(call.coordinates), in<L>(call.weights), static_cast<float>(call.step)};
  given.divide_by = (uint64_t{1} << 31) / call.points_per_tap + 1;  // exact where points * points_per_tap < 2^31
  std::copy(call.taps, call.taps + kMostTaps, given.taps);
  return given;
}

// run(D): 16 is InternImage's width, 32 that of DINO and Mask DINO; 0 for the rest.
template <class Run>
void for_width(const Call& call, Run run) {
  switch (call.channels) {
    case 16: return run(std::integral_constant<int, 16>{});
    case 32: return run(std::integral_constant<int, 32>{});
    default: return run(std::integral_constant<int, 0>{});
  }
}

const char* forward(const Call& call, void* stream) {
  const Sizes sizes = sizes_of(call);
  for_width(call, [&](auto channels) {
    constexpr int D = decltype(channels)::value;
    constexpr int kLanes = Layout<T, D>::kThreadsPerHead;
    const Grid grid(call.batch, sizes, kLanes);
    const Forward<T, Points> arguments{sizes, given(call), in<T>(call.value), out<T>(call.out)};
    launch(kLanes, forward_kernel<D, T, Points>, grid.grid, grid.block, stream, arguments);
  });
  return last_error();
}

template <class Sum>
void backward_with(const Call& call, void* stream) {
  const Sizes sizes = sizes_of(call);
  auto* sums = static_cast<Sum*>(call.sums);
  const uint32_t* largest = call.largest;
  const Points::Gradients gradients{out<L>(call.grad_coordinates), out<L>(call.grad_weights)};
  const int64_t rows = call.batch * sizes.queries * call.heads, pixels = call.batch * sizes.pixels * call.heads * call.channels;
  if (largest) {
    find_largest<T>(in<T>(call.grad_out), rows * call.channels, call.largest, stream);
    find_largest<L>(in<L>(call.weights), rows * call.points, call.largest + 1, stream);
  }
  for_width(call, [&](auto channels) {
    constexpr int D = decltype(channels)::value;
    constexpr int kLanes = Layout<T, D>::kThreadsPerHead;
    const Grid grid(call.batch, sizes, kLanes);
    const Backward<Sum, T, Points> arguments{sizes, given(call), gradients, in<T>(call.grad_out), in<T>(call.value), sums, largest};
    launch(kLanes, backward_kernel<D, Sum, T, Points>, grid.grid, grid.block, stream, arguments);
  });
  if (call.sums != call.grad_value) {
    const Rounding<T, Sum> rounding{sums, pixels, largest, sizes.count_bits, out<T>(call.grad_value)};
    launch(1, round_kernel<true, T, Sum>, blocks_for(pixels), dim3(kThreads, 1, 1), stream, rounding, rounding);
  }
}

const char* backward(const Call& call, void* stream) {
  call.largest ? backward_with<int64_t>(call, stream) : backward_with<float>(call, stream);
  return last_error();
}

}  // namespace

extern const Kernels PIIP_STORAGE = {forward, backward};

}  // namespace piip::cuda::sampling
