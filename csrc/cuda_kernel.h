// Weighted bilinear samples on a GPU and their gradients: one thread, or a few neighbours, does a head of a query.
// T stores value and out, D is the channels of a head, 0 for any number. Where the points of a head are and what they weigh is up to
// `Points`: Attention (deform_attn_cuda_points.h) or Placed (sampling_cuda_points.h). Arithmetic is float32.
#pragma once
#include <type_traits>

#include "cuda_sums.h"
#include "cuda_types.h"

namespace piip::cuda {

// How a head's channels lie on its threads: vector i is thread i % kThreadsPerHead's, so that neighbours read neighbours.
// Up to 48 bytes one thread is best: nothing is computed twice and nothing is added up between threads. Beyond, 12-28 channels each.
template <class T, int D>
struct Layout {
  static constexpr int kBytes = D * sizeof(typename T::Item);
  static constexpr int kThreadsPerHead = D == 0 ? 8 : kBytes <= 48 ? 1 : D <= 40 ? 2 : 4;
  static constexpr int kWidth = D == 0 ? 1 : kVector<T, D>;  // channels of one vector
  static constexpr int kVectors = D == 0 ? 4 : (D / kWidth + kThreadsPerHead - 1) / kThreadsPerHead;  // at a time, per thread
  static constexpr int kChannels = kVectors * kWidth;
  static constexpr int kStride = kThreadsPerHead * kWidth;
};

struct Sizes {
  int64_t pixels;  // of an image, all its maps together
  int queries, query_width, heads, channels, points;
  int count_bits;      // at most 2^count_bits terms are added to a pixel
  unsigned divide_by;  // n / query_width is (n + (n * divide_by >> 32)) >> divide_shift for any n < 2^31
  int divide_shift;
};

// The head of a query that a thread works for, and its part of the channels. A block is (heads, threads_per_head * queries) threads,
// of which threads_per_head neighbours do a head of a query; `block` is its place among those of all queries.
struct Place {
  int query, head, lane;
  int64_t image;
  __device__ Place(unsigned threads_per_head, unsigned block) : image(blockIdx.z) {
    const unsigned column = threadIdx.y % threads_per_head * blockDim.x + threadIdx.x;
    query = block * (blockDim.y / threads_per_head) + threadIdx.y / threads_per_head;
    head = blockIdx.y * blockDim.x + column / threads_per_head;
    lane = column % threads_per_head;
  }
  __device__ Place(int query, int head, int64_t image) : query(query), head(head), lane(0), image(image) {}
  __device__ bool exists(const Sizes& sizes) const { return query < sizes.queries && head < sizes.heads; }
  // Among all (image, query), and among all (image, query, head).
  __device__ int64_t query_row(const Sizes& sizes) const { return image * sizes.queries + query; }
  __device__ int64_t row(const Sizes& sizes) const { return query_row(sizes) * sizes.heads + head; }
  // The query's cell of the grid. A division by a number known before the launch: multiplication and shift.
  __device__ void cell(const Sizes& sizes, float& column, float& line) const {
    const unsigned n = query, y = (__umulhi(n, sizes.divide_by) + n) >> sizes.divide_shift;
    column = n - y * sizes.query_width, line = y;
  }
};

// A map of an image: its rows and columns, and its first pixel.
struct Map {
  int height, width, first;
};

struct Point {
  float x, y, attention;
};

// The four pixels around a point: upper left, upper right, lower left, lower right.
struct Corners {
  int pixel[4];
  bool inside[4];
  float dx, dy;

  __device__ Corners(const Point& point, const Map& map) {
    const float left = floorf(point.x), top = floorf(point.y);
    // Not a number or infinite: dx is NaN, and shows, since 0 * NaN is NaN. Unsigned: what is below 0 is also too large.
    dx = point.x - left, dy = point.y - top;
    const unsigned x = __float2int_rz(left), y = __float2int_rz(top), width = map.width, height = map.height;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const unsigned xk = x + (k & 1), yk = y + (k >> 1);
      pixel[k] = map.first + yk * width + xk;
      inside[k] = xk < width && yk < height;
    }
  }
  __device__ float weight_x(int k) const { return k & 1 ? dx : 1 - dx; }
  __device__ float weight_y(int k) const { return k >> 1 ? dy : 1 - dy; }
};

// Calls visit(vector of this thread's, its first channel) for those that exist.
template <class T, int D, class Visit>
__device__ void for_each_vector(int first, int channels, Visit visit) {
  using A = Layout<T, D>;
#pragma unroll
  for (int i = 0; i < A::kVectors; ++i) {
    const int channel = first + i * A::kStride;
    if (channel < (D ? D : channels)) visit(i, channel);
  }
}

// What forward reads and writes.
template <class T, class Points>
struct Forward {
  Sizes sizes;
  typename Points::Given given;
  const typename T::Item* value;
  typename T::Item* out;
};

template <int D, class T, class Points>
__device__ __forceinline__ void forward_block(const Forward<T, Points>& call, unsigned block) {
  using A = Layout<T, D>;
  using Vector = Packed<T, A::kWidth>;
  const auto& [sizes, given, value, out] = call;
  const Place place(A::kThreadsPerHead, block);
  if (!place.exists(sizes)) return;
  const int channels = D ? D : sizes.channels, pitch = sizes.heads * channels;
  const Points points(given, sizes, place);
  const auto* map = value + place.image * sizes.pixels * pitch + place.head * channels;
  auto* to = out + place.row(sizes) * channels;
  // All channels at once, unless there are more than registers.
  for (int first = place.lane * A::kWidth; first < channels; first += A::kVectors * A::kStride) {
    float sum[A::kChannels] = {};
#pragma unroll
    for (int p = 0; p < points.count(); ++p) {
      const Point point = points[p];
      const Corners corners(point, points.map(p));
      Vector pixel[4][A::kVectors];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (corners.inside[k])
          for_each_vector<T, D>(first, channels, [&](int i, int channel) {
            pixel[k][i].load(map + static_cast<int64_t>(corners.pixel[k]) * pitch + channel);
          });
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float weight = point.attention * corners.weight_x(k) * corners.weight_y(k);
#pragma unroll
        for (int i = 0; i < A::kVectors; ++i) {
          float item[A::kWidth];
          pixel[k][i].to_floats(item);
#pragma unroll
          for (int c = 0; c < A::kWidth; ++c) sum[i * A::kWidth + c] = fmaf(weight, item[c], sum[i * A::kWidth + c]);
        }
      }
    }
    for_each_vector<T, D>(first, channels, [&](int i, int channel) { Vector::from_floats(sum + i * A::kWidth).store(to + channel); });
    if constexpr (D > 0) break;
  }
}

// Adds up over the threads of a head; all of them get the sum.
template <int kThreadsPerHead>
__device__ float sum_over_threads(float x) {
  if constexpr (kThreadsPerHead > 1) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const unsigned mask = ((1u << kThreadsPerHead) - 1) << (thread % 32 / kThreadsPerHead * kThreadsPerHead);
#pragma unroll
    for (int step = 1; step < kThreadsPerHead; step *= 2) x += __shfl_xor_sync(mask, x, step);
  }
  return x;
}

template <int D, class T, class Points>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ Forward<T, Points> call) {
  forward_block<D>(call, blockIdx.x);
}

// Two calls in one launch, for blocks that would leave multiprocessors idle: the first has `blocks` of them, the other the rest.
template <int D, int E, class T, class Points>
__global__ void __launch_bounds__(kThreads)
    forward_pair_kernel(const __grid_constant__ Forward<T, Points> one, const __grid_constant__ Forward<T, Points> other, unsigned blocks) {
  blockIdx.x < blocks ? forward_block<D>(one, blockIdx.x) : forward_block<E>(other, blockIdx.x - blocks);
}

// Blocks that a multiprocessor is to hold at once; 0 leaves that to ptxas, which then spills a register or two of some kernels to hold
// one more block. Four of them are 128 registers a thread, two all it can have.
template <int D, class Sum>
constexpr int kBlocks = D == 0 ? 4 : D == 32 && std::is_void_v<Sum> ? 2 : 0;

// What backward reads and writes. Sum is float, int64_t for sums in fixed point, or void where the value's gradient is somebody else's.
template <class Sum, class T, class Points>
struct Backward {
  Sizes sizes;
  typename Points::Given given;
  typename Points::Gradients gradients;
  const typename T::Item *grad_out, *value;
  Sum* grad_value;
  const uint32_t* largest;
};

template <int D, class Sum, class T, class Points>
__device__ __forceinline__ void backward_block(const Backward<Sum, T, Points>& call, unsigned block) {
  using A = Layout<T, D>;
  using Vector = Packed<T, A::kWidth>;
  const auto& [sizes, given, gradients, grad_out, value, grad_value, largest] = call;
  const Place place(A::kThreadsPerHead, block);
  if (!place.exists(sizes)) return;
  const int channels = D ? D : sizes.channels, pitch = sizes.heads * channels, begin = place.lane * A::kWidth;
  const int64_t row = place.row(sizes);
  Points points(given, sizes, place);
  const int64_t map = place.image * sizes.pixels * pitch + place.head * channels;
  const float scale = largest ? fixed_point_scale<Points::kAnyWeight>(largest, sizes.count_bits) : 1.f;

  float out[A::kChannels] = {};  // the gradient of this thread's channels
  const auto read_grad_out = [&](int first) {
    for_each_vector<T, D>(first, channels, [&](int i, int channel) {
      Vector packed;
      packed.load(grad_out + row * channels + channel);
      packed.to_floats(out + i * A::kWidth);
    });
  };
  if constexpr (D > 0) read_grad_out(begin);

#pragma unroll
  for (int p = 0; p < points.count(); ++p) {
    const Point point = points[p];
    const Corners corners(point, points.map(p));
    float dot[4] = {};
    for (int first = begin; first < channels; first += A::kVectors * A::kStride) {
      if constexpr (D == 0) {
        for (float& gradient : out) gradient = 0;
        read_grad_out(first);
      }
      Vector pixel[4][A::kVectors];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (corners.inside[k])
          for_each_vector<T, D>(first, channels, [&](int i, int channel) {
            pixel[k][i].load(value + map + static_cast<int64_t>(corners.pixel[k]) * pitch + channel);
          });
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (!std::is_void_v<Sum>) {
          const float weight = scale * point.attention * corners.weight_x(k) * corners.weight_y(k);
          Sum* to = grad_value + map + static_cast<int64_t>(corners.pixel[k]) * pitch;
          if (corners.inside[k])
            for_each_vector<T, D>(first, channels, [&](int i, int channel) { add<A::kWidth>(to + channel, out + i * A::kWidth, weight); });
        }
#pragma unroll
        for (int i = 0; i < A::kVectors; ++i) {
          float item[A::kWidth];
          pixel[k][i].to_floats(item);
#pragma unroll
          for (int c = 0; c < A::kWidth; ++c) dot[k] = fmaf(item[c], out[i * A::kWidth + c], dot[k]);
        }
      }
      if constexpr (D > 0) break;
    }
    float sampled = 0, of_x = 0, of_y = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sampled += corners.weight_x(k) * corners.weight_y(k) * dot[k];
      of_x += (k & 1 ? corners.weight_y(k) : -corners.weight_y(k)) * dot[k];
      of_y += (k >> 1 ? corners.weight_x(k) : -corners.weight_x(k)) * dot[k];
    }
    sampled = sum_over_threads<A::kThreadsPerHead>(sampled);
    of_x = sum_over_threads<A::kThreadsPerHead>(of_x);
    of_y = sum_over_threads<A::kThreadsPerHead>(of_y);
    points.take(p, point, sampled, of_x, of_y, gradients, sizes, place);
  }
  points.write(gradients, given, sizes, place);
}

template <int D, class Sum, class T, class Points>
__global__ void __launch_bounds__(kThreads, kBlocks<D, Sum>) backward_kernel(const __grid_constant__ Backward<Sum, T, Points> call) {
  backward_block<D>(call, blockIdx.x);
}

template <int D, int E, class T, class Points>
__global__ void __launch_bounds__(kThreads)
    backward_pair_kernel(const __grid_constant__ Backward<float, T, Points> one, const __grid_constant__ Backward<float, T, Points> other,
                         unsigned blocks) {
  blockIdx.x < blocks ? backward_block<D>(one, blockIdx.x) : backward_block<E>(other, blockIdx.x - blocks);
}

}  // namespace piip::cuda
