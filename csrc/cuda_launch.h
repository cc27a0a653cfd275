// What the launches of all CUDA kernels share. Included by a .cu that nvcc compiles, or tests/ops for the CPU.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <algorithm>

#include "cuda_kernel.h"

namespace piip::cuda {

template <class Storage>
const typename Storage::Item* in(const void* pointer) {
  return static_cast<const typename Storage::Item*>(pointer);
}
template <class Storage>
typename Storage::Item* out(void* pointer) {
  return static_cast<typename Storage::Item*>(pointer);
}

#ifdef __CUDACC__
// Threads next to each other, `lanes` at a time, exchange what they have.
template <class... Parameters, class... Arguments>
void launch(int lanes, void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  (void)lanes;
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
}

// A block's threads share `bytes` of memory, more of it than a kernel gets unasked, and wait for each other.
template <class... Parameters, class... Arguments>
void launch_shared(int64_t bytes, void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  kernel<<<grid, block, bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
}

// What a block of the present device can have.
inline int64_t shared_memory_per_block() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}
#endif

inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int bits(int64_t n) {  // the smallest with n <= 2^bits
  int bits = 0;
  while ((int64_t{1} << bits) < n) ++bits;
  return bits;
}

// Of a grid of queries. `terms`: how often a pixel may be added to, for each query.
inline Sizes grid_sizes(int64_t pixels, int64_t query_height, int64_t query_width, int64_t heads, int64_t channels, int64_t points,
                      int64_t terms) {
  Sizes sizes{};
  sizes.pixels = pixels, sizes.queries = query_height * query_width, sizes.query_width = query_width;
  sizes.heads = heads, sizes.channels = channels, sizes.points = points;
  sizes.count_bits = bits(sizes.queries * terms);
  sizes.divide_shift = bits(query_width);  // Granlund and Montgomery, 1994, figure 4.1
  sizes.divide_by = (((uint64_t{1} << sizes.divide_shift) - query_width) << 32) / query_width + 1;
  return sizes;
}

// Blocks of heads x queries of one image, for kernels that do a head of a query with `lanes` threads or fewer (powers of two).
struct Grid {
  dim3 grid, block;
  Grid(int64_t batch, const Sizes& sizes, int lanes) {
    const int heads = std::min(sizes.heads, kThreads / lanes);
    block = dim3(heads, kThreads / (heads * lanes) * lanes, 1);
    grid = dim3(blocks(sizes, lanes), (sizes.heads + heads - 1) / heads, batch);
  }
  unsigned blocks(const Sizes& sizes, int lanes) const { return (sizes.queries + block.y / lanes - 1) / (block.y / lanes); }
};

inline dim3 blocks_for(int64_t count) { return dim3(std::min<int64_t>((count + kThreads - 1) / kThreads, 1024), 1, 1); }

template <class T>
void find_largest(const typename T::Item* of, int64_t count, uint32_t* largest, void* stream) {
  launch(32, largest_kernel<T>, blocks_for(count), dim3(kThreads, 1, 1), stream, of, count, largest);
}

}  // namespace piip::cuda
