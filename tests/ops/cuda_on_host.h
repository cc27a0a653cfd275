// As much of CUDA as csrc/*cuda*.h use, for a C++ compiler: kernels then run on the CPU, one thread after the other. Threads
// that exchange values through a shuffle take turns there, as coroutines.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

// A vector load faults on the GPU where its address is not a multiple of its size: here the process ends.
template <class V>
V* aligned(V* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % sizeof(V)) std::abort();
  return pointer;
}
template <class V>
V __ldg(const V* from) { V v; std::memcpy(&v, aligned(from), sizeof(V)); return v; }

using std::max;
using std::min;
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t{a} * b) >> 32; }
inline int __float2int_rz(float x) {  // saturates; NaN is 0
  return std::isnan(x) ? 0 : x >= 2147483648.f ? INT32_MAX : x < -2147483648.f ? INT32_MIN : static_cast<int>(x);
}
inline int __float2int_rn(float x) { return std::isnan(x) ? 0 : std::lrint(x); }
inline int __float2int_ru(float x) { return std::isnan(x) ? 0 : static_cast<int>(std::ceil(x)); }
inline int __clz(uint32_t x) { return std::countl_zero(x); }
inline long long __float2ll_rn(float x) { return std::isnan(x) ? INT64_MIN : std::llrint(x); }
inline float __uint_as_float(uint32_t x) { float f; std::memcpy(&f, &x, 4); return f; }
inline uint32_t __float_as_uint(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }

inline _Float16 __ushort_as_half(uint16_t x) { _Float16 h; std::memcpy(&h, &x, 2); return h; }
inline uint16_t __half_as_ushort(_Float16 x) { uint16_t u; std::memcpy(&u, &x, 2); return u; }
inline float __half2float(_Float16 x) { return x; }
inline _Float16 __float2half_rn(float x) { return static_cast<_Float16>(x); }
struct bfloat { uint16_t bits; };
inline uint16_t __bfloat16_as_ushort(bfloat x) { return x.bits; }
inline bfloat __float2bfloat16_rn(float x) {
  const uint32_t bits = __float_as_uint(x);
  return {static_cast<uint16_t>(std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <class N>
void atomicAdd(N* to, N what) { *to += what; }
inline void atomicAdd(float2* to, float2 what) {
  float* p = reinterpret_cast<float*>(aligned(to));
  p[0] += what.x, p[1] += what.y;
}
inline void atomicAdd(float4* to, float4 what) {
  float* p = reinterpret_cast<float*>(aligned(to));
  p[0] += what.x, p[1] += what.y, p[2] += what.z, p[3] += what.w;
}
inline void atomicMax(uint32_t* to, uint32_t what) { *to = max(*to, what); }

struct Lane {
  ucontext_t state;
  static constexpr size_t kStack = 64 * 1024;
  std::unique_ptr<char[]> stack{new char[kStack]};
  uint32_t shown;
  bool done = false;
};
inline std::vector<Lane> lanes_in_step;
inline ucontext_t all_lanes;
inline int lane_now;
inline std::function<void(int)> work_of_lane;

// Lets the other lanes come this far.
inline void take_turns() {
  const dim3 block = blockIdx, thread = threadIdx;
  const int lane = lane_now;
  swapcontext(&lanes_in_step[lane].state, &all_lanes);
  blockIdx = block, threadIdx = thread, lane_now = lane;
}

inline void __syncthreads() { take_turns(); }  // where all threads of a block are lanes

template <class X>
X __shfl_xor_sync(unsigned, X x, int step) {
  const int lane = lane_now;
  std::memcpy(&lanes_in_step[lane].shown, &x, 4);
  take_turns();
  std::memcpy(&x, &lanes_in_step[lane ^ step].shown, 4);
  take_turns();
  return x;
}

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

template <class... Parameters, class... Arguments>
void launch(int lanes, void (*kernel)(Parameters...), dim3 grid, dim3 block, void*, Arguments... arguments) {
  gridDim = grid, blockDim = block;
  work_of_lane = [=](int lane) {
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
          for (unsigned thread = lane; thread < block.x * block.y; thread += lanes) {
            threadIdx.x = thread % block.x, threadIdx.y = thread / block.x;
            kernel(arguments...);
            if (lanes > 1) take_turns();  // nobody begins the next block before all have left this one
          }
  };
  if (lanes == 1) return work_of_lane(0);
  lanes_in_step = std::vector<Lane>(lanes);
  for (Lane& lane : lanes_in_step) {
    getcontext(&lane.state);
    lane.state.uc_stack.ss_sp = lane.stack.get(), lane.state.uc_stack.ss_size = Lane::kStack;
    lane.state.uc_link = &all_lanes;
    makecontext(&lane.state, [] { work_of_lane(lane_now), lanes_in_step[lane_now].done = true; }, 0);
  }
  for (int left = lanes; left > 0;)
    for (lane_now = 0; lane_now < lanes; ++lane_now) {
      Lane& lane = lanes_in_step[lane_now];
      if (lane.done) continue;
      const int turn = lane_now;
      swapcontext(&all_lanes, &lane.state);
      lane_now = turn;
      left -= lane.done;
    }
}

inline int64_t shared_memory_per_block() { return 227 * 1024; }  // of an H100

template <class... Parameters, class... Arguments>
void launch_shared(int64_t, void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  launch(block.x, kernel, grid, block, stream, arguments...);
}
