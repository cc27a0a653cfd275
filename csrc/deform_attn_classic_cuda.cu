// Deformable attention in the design of the first public kernels, written here as the baseline of experiments/benchmarks/gpu_kernels.py:
// one thread per output channel, locations and weights from memory for each, scalar loads; backward a block per head of a query, scalar
// atomic additions for the value, the other gradients added up in shared memory by its first thread. Nothing else uses it.
#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

#include <cstdint>

#include "deform_attn_cuda.h"

namespace piip::cuda {
namespace {

struct Sizes {
  int value_height, value_width, queries, heads, channels, points;
  int64_t count;
};

// One corner's pixel; true where it is on the map.
__device__ bool find(const Sizes& sizes, int64_t image, int head, int channel, int y, int x, int64_t& at) {
  at = (((image * sizes.value_height + y) * sizes.value_width + x) * sizes.heads + head) * sizes.channels + channel;
  return y >= 0 && y < sizes.value_height && x >= 0 && x < sizes.value_width;
}

__global__ void forward_kernel(Sizes sizes, const float* value, const float* locations, const float* weights, float* out) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= sizes.count) return;
  const int channel = index % sizes.channels, head = index / sizes.channels % sizes.heads;
  const int64_t row = index / sizes.channels, image = row / sizes.heads / sizes.queries;
  float sum = 0;
  for (int p = 0; p < sizes.points; ++p) {
    const int64_t point = row * sizes.points + p;
    const float x = locations[2 * point] * sizes.value_width - .5f, y = locations[2 * point + 1] * sizes.value_height - .5f;
    const int left = floorf(x), top = floorf(y);
    const float dx = x - left, dy = y - top;
    float sampled = 0;
    for (int k = 0; k < 4; ++k) {
      int64_t at;
      if (find(sizes, image, head, channel, top + (k >> 1), left + (k & 1), at))
        sampled += (k & 1 ? dx : 1 - dx) * (k >> 1 ? dy : 1 - dy) * value[at];
    }
    sum += weights[point] * sampled;
  }
  out[index] = sum;
}

__global__ void backward_kernel(Sizes sizes, const float* grad_out, const float* value, const float* locations, const float* weights,
                                float* grad_value, float* grad_locations, float* grad_weights) {
  extern __shared__ float partial[];  // x, y and weight of every channel
  const int channel = threadIdx.x, head = blockIdx.x % sizes.heads;
  const int64_t row = blockIdx.x, image = row / sizes.heads / sizes.queries;
  const float gradient = grad_out[row * sizes.channels + channel];
  for (int p = 0; p < sizes.points; ++p) {
    const int64_t point = row * sizes.points + p;
    const float x = locations[2 * point] * sizes.value_width - .5f, y = locations[2 * point + 1] * sizes.value_height - .5f;
    const float weight = weights[point];
    const int left = floorf(x), top = floorf(y);
    const float dx = x - left, dy = y - top;
    float sampled = 0, of_x = 0, of_y = 0;
    for (int k = 0; k < 4; ++k) {
      int64_t at;
      if (!find(sizes, image, head, channel, top + (k >> 1), left + (k & 1), at)) continue;
      const float weight_x = k & 1 ? dx : 1 - dx, weight_y = k >> 1 ? dy : 1 - dy;
      sampled += weight_x * weight_y * value[at];
      of_x += (k & 1 ? weight_y : -weight_y) * value[at];
      of_y += (k >> 1 ? weight_x : -weight_x) * value[at];
      atomicAdd(grad_value + at, weight_x * weight_y * weight * gradient);
    }
    partial[3 * channel] = of_x * weight * gradient * sizes.value_width;
    partial[3 * channel + 1] = of_y * weight * gradient * sizes.value_height;
    partial[3 * channel + 2] = sampled * gradient;
    __syncthreads();
    if (channel == 0) {
      float sums[3] = {};
      for (int i = 0; i < sizes.channels; ++i)
        for (int j = 0; j < 3; ++j) sums[j] += partial[3 * i + j];
      grad_locations[2 * point] = sums[0];
      grad_locations[2 * point + 1] = sums[1];
      grad_weights[point] = sums[2];
    }
    __syncthreads();
  }
}

const float* floats(const void* pointer) { return static_cast<const float*>(pointer); }
float* floats(void* pointer) { return static_cast<float*>(pointer); }

Sizes sizes_of(const Call& call) {
  const int64_t queries = call.query_height * call.query_width;
  return {static_cast<int>(call.value_height), static_cast<int>(call.value_width), static_cast<int>(queries),
          static_cast<int>(call.heads),        static_cast<int>(call.channels),    static_cast<int>(call.points),
          call.batch * queries * call.heads * call.channels};
}

const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* forward(const Call& call, void* stream) {
  constexpr int kThreads = 256;
  const Sizes sizes = sizes_of(call);
  forward_kernel<<<(sizes.count + kThreads - 1) / kThreads, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      sizes, floats(call.value), floats(call.offsets), floats(call.logits), floats(call.out));
  return last_error();
}

const char* backward(const Call& call, void* stream) {
  const Sizes sizes = sizes_of(call);
  backward_kernel<<<sizes.count / sizes.channels, sizes.channels, 3 * sizes.channels * sizeof(float), static_cast<cudaStream_t>(stream)>>>(
      sizes, floats(call.grad_out), floats(call.value), floats(call.offsets), floats(call.logits), floats(call.sums),
      floats(call.grad_offsets), floats(call.grad_logits));
  return last_error();
}

}  // namespace

extern const Kernels classic = {forward, backward, [](const Call&) { return false; }};

}  // namespace piip::cuda
