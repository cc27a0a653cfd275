// The value's gradient in shared memory: a block owns C channels of one head's map of one image and runs over all queries. Its planes
// are int32 in fixed point, which shared memory adds up natively and in any order to the same bits; the result is written once.
#pragma once
#include "cuda_kernel.h"

namespace piip::cuda {

constexpr int kPlaneThreads = 1024;
constexpr int kPlaneHead = 4;  // numbers in front of the planes: the largest gradient's bits, the largest sum of weights

constexpr int64_t plane_bytes(int64_t pixels, int channels) { return (kPlaneHead + channels * pixels) * sizeof(int32_t); }

__device__ inline int32_t* block_memory() {
  extern __shared__ int32_t piip_block_memory[];
  return piip_block_memory;
}

// Calls visit(pixel, weight) for every pixel that a point touches.
template <class Points, class Visit>
__device__ void for_each_pixel(const Points& points, Visit visit) {
#pragma unroll
  for (int p = 0; p < points.count(); ++p) {
    const Point point = points[p];
    const Corners corners(point, points.map(p));
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (corners.inside[k]) visit(corners.pixel[k], point.attention * corners.weight_x(k) * corners.weight_y(k));
  }
}

// One unit in fixed point is 2^-30 of a power of two that no pixel's sum of |terms| can reach: the largest gradient times the largest
// sum of weights, each rounded up to a power of two. Every term is rounded to whole units, so a pixel with n terms is off by at most
// n * 2^-29 times the product of the two. A gradient or a weight that is no number makes the block's planes NaN.
__device__ inline float plane_scale(uint32_t largest, uint32_t weights, int weight_bits) {
  const int of_gradient = static_cast<int>(largest >> 23) - 126, of_weights = 32 - __clz(weights) - weight_bits;
  const int exponent = min(30 - of_gradient - of_weights, 126);
  if (of_gradient == 129 || exponent < -126) return __uint_as_float(0x7fc00000);
  return __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23);
}

// Grid: channels / C, heads, images. weight_bits: fraction bits of the sums of weights, so that those of all queries fit 30 bits.
template <int C, class T, class Points>
__global__ void __launch_bounds__(kPlaneThreads, 1)
    planes_kernel(const Sizes sizes, const __grid_constant__ typename Points::Given given, const typename T::Item* grad_out,
                  typename T::Item* grad_value, int weight_bits) {
  auto* const largest = reinterpret_cast<uint32_t*>(block_memory());
  int32_t* const plane = block_memory() + kPlaneHead;
  const int pixels = sizes.pixels, head = blockIdx.y, first = blockIdx.x * C;
  const int64_t image = blockIdx.z;
  const auto clear = [](int32_t* from, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) from[i] = 0;
    __syncthreads();
  };
  // visit(points, gradient of the C channels)
  const auto for_each_query = [&](auto visit) {
    for (int query = threadIdx.x; query < sizes.queries; query += blockDim.x) {
      const Place place(query, head, image);
      float gradient[C];
      load_all<T, C>(grad_out + place.row(sizes) * sizes.channels + first, gradient);
      visit(Points(given, sizes, place), gradient);
    }
    __syncthreads();
  };

  // First the size of the sums: of all gradients the largest, of all pixels the largest sum of weights.
  clear(block_memory(), kPlaneHead + pixels);
  uint32_t found = 0;
  for_each_query([&](const Points& points, const float(&gradient)[C]) {
#pragma unroll
    for (int c = 0; c < C; ++c) found = max(found, __float_as_uint(gradient[c]) & 0x7fffffff);
    for_each_pixel(points, [&](int pixel, float weight) {
      if (!(weight <= 2)) found = 0x7fffffff;  // NaN: integers have none
      atomicAdd(plane + pixel, __float2int_ru(weight * static_cast<float>(1 << weight_bits)));
    });
  });
  uint32_t weights = 0;
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) weights = max(weights, static_cast<uint32_t>(plane[i]));
  found = largest_of_warp(found), weights = largest_of_warp(weights);
  if (threadIdx.x % 32 == 0) atomicMax(largest, found), atomicMax(largest + 1, weights);
  __syncthreads();
  const float scale = plane_scale(largest[0], largest[1], weight_bits);

  clear(plane, C * pixels);
  for_each_query([&](const Points& points, const float(&gradient)[C]) {
    for_each_pixel(points, [&](int pixel, float weight) {
#pragma unroll
      for (int c = 0; c < C; ++c) atomicAdd(plane + c * pixels + pixel, __float2int_rn(scale * weight * gradient[c]));
    });
  });
  const float unit = 1 / scale;
  auto* to = grad_value + (image * pixels * sizes.heads + head) * sizes.channels + first;
  for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
    float sum[C];
#pragma unroll
    for (int c = 0; c < C; ++c) sum[c] = static_cast<float>(plane[c * pixels + i]) * unit;
    store_all<T, C>(to + static_cast<int64_t>(i) * sizes.heads * sizes.channels, sum);
  }
}

}  // namespace piip::cuda
