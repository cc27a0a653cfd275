// Additions to memory that others add to, as floats or in fixed point, and the kernels before and after them.
#pragma once
#include "cuda_types.h"

namespace piip::cuda {

constexpr int kThreads = 128;

// Adds weight * from to N floats. From sm_90 on, four or two of them are one instruction (red.global.v4.f32).
template <int N>
__device__ void add(float* to, const float* from, float weight) {
#if __CUDA_ARCH__ >= 900
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      atomicAdd(reinterpret_cast<float4*>(to + i),
                make_float4(weight * from[i], weight * from[i + 1], weight * from[i + 2], weight * from[i + 3]));
    return;
  } else if constexpr (N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2)
      atomicAdd(reinterpret_cast<float2*>(to + i), make_float2(weight * from[i], weight * from[i + 1]));
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < N; ++i) atomicAdd(to + i, weight * from[i]);
}

// The same in fixed point: `weight` carries the scale. Integers add up to the same bits in any order.
template <int N>
__device__ void add(int64_t* to, const float* from, float weight) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    atomicAdd(reinterpret_cast<unsigned long long*>(to + i), static_cast<unsigned long long>(__float2ll_rn(weight * from[i])));
}

// The power of two that makes integers of terms, of which `2^count_bits` of the largest size fit an int64. largest: the bits of the
// largest gradient and, where weights may be any number, of the largest weight; terms are products of the two.
// NaN where one of them is NaN or inf, or their product would be: integers have neither, and they have to show.
template <bool kAnyWeight>
__device__ float fixed_point_scale(const uint32_t* largest, int count_bits) {
  const int of_gradient = static_cast<int>(largest[0] >> 23) - 126;  // largest < 2^exponent
  const int of_weight = kAnyWeight ? static_cast<int>(largest[1] >> 23) - 126 : 0;
  if (of_gradient == 129 || of_weight == 129 || of_gradient + of_weight > 128) return __uint_as_float(0x7fc00000);
  return __uint_as_float(static_cast<uint32_t>(min(62 - count_bits - of_gradient - of_weight, 126) + 127) << 23);
}

__device__ inline uint32_t largest_of_warp(uint32_t x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

// The bits of the largest |x|: as unsigned numbers they are in the order of the floats, then inf, then NaN.
template <class T>
__global__ void __launch_bounds__(kThreads) largest_kernel(const typename T::Item* from, int64_t count, uint32_t* largest) {
  uint32_t found = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads)
    found = max(found, __float_as_uint(load_one<T>(from + i)) & 0x7fffffff);
  found = largest_of_warp(found);
  if (threadIdx.x % 32 == 0) atomicMax(largest, found);
}

// The value's gradient from its sums.
template <class T, class Sum>
struct Rounding {
  const Sum* sums;
  int64_t count;
  const uint32_t* largest;
  int count_bits;
  typename T::Item* to;
};

// grid.y 2: of two calls.
template <bool kAnyWeight, class T, class Sum>
__global__ void __launch_bounds__(kThreads) round_kernel(const Rounding<T, Sum> one, const Rounding<T, Sum> other) {
  const auto& [sums, count, largest, count_bits, to] = blockIdx.y ? other : one;
  const float unit = largest ? 1 / fixed_point_scale<kAnyWeight>(largest, count_bits) : 1.f;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads)
    store_one<T>(to + i, static_cast<float>(sums[i]) * unit);
}

}  // namespace piip::cuda
