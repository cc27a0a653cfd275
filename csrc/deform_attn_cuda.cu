// Launches of the CUDA kernels for one storage: PIIP_VALUE and PIIP_LOCATION are types of cuda_types.h, PIIP_STORAGE the name of the
// pair. Compiled by nvcc once per storage; by a C++ compiler in tests/ops, which run the kernels on the CPU.
#include "cuda_launch.h"
#include "deform_attn_cuda.h"
#include "deform_attn_cuda_planes.h"
#include "deform_attn_cuda_points.h"

namespace piip::cuda {
namespace {

using T = PIIP_VALUE;
using L = PIIP_LOCATION;

Sizes sizes_of(const Call& call) {  // the weights of a head add up to 1, so a query adds one term to a pixel
  return grid_sizes(call.value_height * call.value_width, call.query_height, call.query_width, call.heads, call.channels, call.points, 1);
}

AttentionGiven<L> given(const Call& call) {
  return {in<L>(call.offsets), in<L>(call.logits), call.offsets_row, call.logits_row, static_cast<int>(call.value_height),
          static_cast<int>(call.value_width), static_cast<float>(static_cast<double>(call.value_width) / call.query_width),
          static_cast<float>(static_cast<double>(call.value_height) / call.query_height)};
}

// run(D, Attention<L, P>*) for special() calls, D and P 0 for the rest.
template <class Run>
void for_sizes(const Call& call, Run run) {
  const auto with = [&](auto channels) {
    run(channels, static_cast<Attention<L, decltype(channels)::value ? 4 : 0>*>(nullptr));
  };
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

// run(D, E) for paired() calls.
template <class Run>
void for_pair(const Call& one, Run run) {
  switch (one.channels) {
    case 6: return run(std::integral_constant<int, 6>{}, std::integral_constant<int, 12>{});
    case 12: return run(std::integral_constant<int, 12>{}, std::integral_constant<int, 24>{});
    default: return run(std::integral_constant<int, 24>{}, std::integral_constant<int, 32>{});
  }
}

template <int D>
constexpr int kLanes = Layout<T, D>::kThreadsPerHead;

// The grid of the call with more lanes, its blocks along the queries those of both calls, and the first call's.
template <int D, int E>
std::pair<Grid, unsigned> pair_grid(const Call& one, const Call& other) {
  Grid grid(one.batch, sizes_of(one), std::max(kLanes<D>, kLanes<E>));
  const unsigned first = grid.blocks(sizes_of(one), kLanes<D>);
  grid.grid.x = first + grid.blocks(sizes_of(other), kLanes<E>);
  return {grid, first};
}

template <class Points>
Forward<T, Points> of_forward(const Call& call) {
  return {sizes_of(call), given(call), in<T>(call.value), out<T>(call.out)};
}

template <class Sum, class Points>
Backward<Sum, T, Points> of_backward(const Call& call) {
  return {sizes_of(call),       given(call),        {out<L>(call.grad_offsets), out<L>(call.grad_logits), call.kept},
          in<T>(call.grad_out), in<T>(call.value),  static_cast<Sum*>(call.sums),
          call.largest};
}

template <class Sum>
Rounding<T, Sum> of_rounding(const Call& call) {
  const Sizes sizes = sizes_of(call);
  return {static_cast<const Sum*>(call.sums), call.batch * sizes.pixels * call.heads * call.channels, call.largest, sizes.count_bits,
          out<T>(call.grad_value)};
}

const char* forward(const Call& call, void* stream) {
  for_sizes(call, [&](auto channels, auto* points) {
    constexpr int D = decltype(channels)::value;
    using Points = std::remove_pointer_t<decltype(points)>;
    const Grid grid(call.batch, sizes_of(call), kLanes<D>);
    launch(kLanes<D>, forward_kernel<D, T, Points>, grid.grid, grid.block, stream, of_forward<Points>(call));
  });
  return last_error();
}

const char* forward_pair(const Call& one, const Call& other, void* stream) {
  for_pair(one, [&](auto channels, auto other_channels) {
    constexpr int D = decltype(channels)::value, E = decltype(other_channels)::value;
    using Points = Attention<L, 4>;
    const auto [grid, first] = pair_grid<D, E>(one, other);
    launch(std::max(kLanes<D>, kLanes<E>), forward_pair_kernel<D, E, T, Points>, grid.grid, grid.block, stream, of_forward<Points>(one),
           of_forward<Points>(other), first);
  });
  return last_error();
}

// All gradients, or without the value's where Sum is void.
template <class Sum>
void launch_backward(const Call& call, void* stream) {
  for_sizes(call, [&](auto channels, auto* points) {
    constexpr int D = decltype(channels)::value;
    using Points = std::remove_pointer_t<decltype(points)>;
    const Grid grid(call.batch, sizes_of(call), kLanes<D>);
    launch(kLanes<D>, backward_kernel<D, Sum, T, Points>, grid.grid, grid.block, stream, of_backward<Sum, Points>(call));
  });
}

// Of one call or two: sums that are not in memory of the value's dtype already.
template <class Sum>
void launch_rounding(const Call& one, const Call* other, void* stream) {
  if (one.sums == one.grad_value) return;
  const auto first = of_rounding<Sum>(one), second = of_rounding<Sum>(other ? *other : one);
  dim3 grid = blocks_for(std::max(first.count, second.count));
  grid.y = other ? 2 : 1;
  launch(1, round_kernel<false, T, Sum>, grid, dim3(kThreads, 1, 1), stream, first, second);
}

template <class Sum>
void backward_in_memory(const Call& call, void* stream) {
  if (call.largest)
    find_largest<T>(in<T>(call.grad_out), call.batch * sizes_of(call).queries * call.heads * call.channels, call.largest, stream);
  launch_backward<Sum>(call, stream);
  launch_rounding<Sum>(call, nullptr, stream);
}

const char* backward_pair(const Call& one, const Call& other, void* stream) {
  for_pair(one, [&](auto channels, auto other_channels) {
    constexpr int D = decltype(channels)::value, E = decltype(other_channels)::value;
    using Points = Attention<L, 4>;
    const auto [grid, first] = pair_grid<D, E>(one, other);
    launch(std::max(kLanes<D>, kLanes<E>), backward_pair_kernel<D, E, T, Points>, grid.grid, grid.block, stream,
           of_backward<float, Points>(one), of_backward<float, Points>(other), first);
  });
  launch_rounding<float>(one, &other, stream);
  return last_error();
}

// Channels of a block's planes, the more the fewer times points are found; 0 where not even one channel's plane fits.
int channels_of_planes(const Call& call) {
  const int64_t pixels = call.value_height * call.value_width, queries = call.query_height * call.query_width;
  if (queries * call.points > 1 << 24 || call.heads > 65535) return 0;  // sums of weights keep 5 fraction bits and more
  for (const int channels : {4, 2, 1})
    if (call.channels % channels == 0 && plane_bytes(pixels, channels) <= shared_memory_per_block()) return channels;
  return 0;
}

void backward_in_planes(const Call& call, void* stream) {
  const Sizes sizes = sizes_of(call);
  launch_backward<void>(call, stream);
  const auto with = [&](auto channels, auto* points) {
    constexpr int C = decltype(channels)::value;
    using Points = std::remove_pointer_t<decltype(points)>;
    const dim3 block(std::min(kPlaneThreads, (sizes.queries + 31) / 32 * 32), 1, 1);
    const dim3 grid(call.channels / C, call.heads, call.batch);
    launch_shared(plane_bytes(sizes.pixels, C), planes_kernel<C, T, Points>, grid, block, stream, sizes, given(call),
                  in<T>(call.grad_out), out<T>(call.grad_value), std::min(16, 29 - sizes.count_bits));
  };
  const auto with_points = [&](auto channels) {
    call.points == 4 && call.aligned ? with(channels, static_cast<Attention<L, 4>*>(nullptr))
                                     : with(channels, static_cast<Attention<L, 0>*>(nullptr));
  };
  switch (channels_of_planes(call)) {
    case 4: return with_points(std::integral_constant<int, 4>{});
    case 2: return with_points(std::integral_constant<int, 2>{});
    default: return with_points(std::integral_constant<int, 1>{});
  }
}

const char* backward(const Call& call, void* stream) {
  switch (call.kind) {
    case Sums::floats: backward_in_memory<float>(call, stream); break;
    case Sums::integers: backward_in_memory<int64_t>(call, stream); break;
    case Sums::planes: backward_in_planes(call, stream); break;
  }
  return last_error();
}

bool planes_fit(const Call& call) { return channels_of_planes(call) > 0; }

}  // namespace

extern const Kernels PIIP_STORAGE = {forward, backward, planes_fit, forward_pair, backward_pair};

}  // namespace piip::cuda
