// Deformable attention on a GPU: one thread, or a few neighbours, does a head of a query. Softmax and locations stay in registers.
// T stores value and out, L offsets and logits; D channels a head and P points, 0 for any number. Arithmetic is float32.
#pragma once
#include "deform_attn_cuda_types.h"

namespace piip::cuda {

constexpr int kThreads = 128;

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
  int value_height, value_width, query_width, queries, heads, channels, points;
  float step_x, step_y;  // pixels of the map from one query to the next
  int count_bits;        // queries <= 2^count_bits
  unsigned divide_by;    // n / query_width is (n + (n * divide_by >> 32)) >> divide_shift for any n < 2^31
  int divide_shift;
};

// The head of a query that a thread works for, and its part of the channels.
struct Place {
  int query, head, lane;
  int64_t image;
  __device__ Place(int threads_per_head)
      : query(blockIdx.x * blockDim.y + threadIdx.y),
        head(blockIdx.y * (blockDim.x / threads_per_head) + threadIdx.x / threads_per_head),
        lane(threadIdx.x % threads_per_head),
        image(blockIdx.z) {}
  __device__ bool exists(const Sizes& sizes) const { return query < sizes.queries && head < sizes.heads; }
  // Among all (image, query, head).
  __device__ int64_t row(const Sizes& sizes) const { return (image * sizes.queries + query) * sizes.heads + head; }
};

struct Point {
  float x, y, attention;
};

// The points of one head of a query: place in pixels of the map, and weight.
template <class L, int P>
struct Points {
  float offset[2 * P], attention[P], x, y;

  __device__ Points(const typename L::Item* offsets, const typename L::Item* logits, int64_t row, float x, float y, int)
      : x(x), y(y) {
    load_all<L, 2 * P>(offsets + row * 2 * P, offset);
    load_all<L, P>(logits + row * P, attention);
    float largest = attention[0], sum = 0;
#pragma unroll
    for (int p = 1; p < P; ++p) largest = fmaxf(largest, attention[p]);
#pragma unroll
    for (int p = 0; p < P; ++p) sum += attention[p] = __expf(attention[p] - largest);
    const float scale = __fdividef(1.f, sum);
#pragma unroll
    for (int p = 0; p < P; ++p) attention[p] *= scale;
  }
  __device__ int count() const { return P; }
  __device__ Point operator[](int p) const { return {x + offset[2 * p], y + offset[2 * p + 1], attention[p]}; }
};

// Any number of points: read again where they are used.
template <class L>
struct Points<L, 0> {
  const typename L::Item *offsets, *logits;
  int points;
  float x, y, largest, scale;

  __device__ Points(const typename L::Item* offsets, const typename L::Item* logits, int64_t row, float x, float y, int points)
      : offsets(offsets + row * 2 * points), logits(logits + row * points), points(points), x(x), y(y) {
    largest = at(this->logits);
    for (int p = 1; p < points; ++p) largest = fmaxf(largest, at(this->logits + p));
    float sum = 0;
    for (int p = 0; p < points; ++p) sum += __expf(at(this->logits + p) - largest);
    scale = __fdividef(1.f, sum);
  }
  __device__ static float at(const typename L::Item* from) {
    float value[1];
    load_all<L, 1>(from, value);
    return value[0];
  }
  __device__ int count() const { return points; }
  __device__ Point operator[](int p) const {
    return {x + at(offsets + 2 * p), y + at(offsets + 2 * p + 1), __expf(at(logits + p) - largest) * scale};
  }
};

template <class L, int P>
__device__ Points<L, P> points_of(const Place& place, const Sizes& sizes, const typename L::Item* offsets,
                                  const typename L::Item* logits) {
  // A division by a number known before the launch: multiplication and shift.
  const unsigned query = place.query, row = (__umulhi(query, sizes.divide_by) + query) >> sizes.divide_shift;
  const float x = query - row * sizes.query_width, y = row;
  return {offsets, logits, place.row(sizes), (x + .5f) * sizes.step_x - .5f, (y + .5f) * sizes.step_y - .5f, sizes.points};
}

// The four pixels around a point: upper left, upper right, lower left, lower right.
struct Corners {
  int pixel[4];
  bool inside[4];
  float dx, dy;

  __device__ Corners(const Point& point, const Sizes& sizes) {
    const float left = floorf(point.x), top = floorf(point.y);
    // Not a number or infinite: dx is NaN, and shows, since 0 * NaN is NaN. Unsigned: what is below 0 is also too large.
    dx = point.x - left, dy = point.y - top;
    const unsigned x = __float2int_rz(left), y = __float2int_rz(top), width = sizes.value_width, height = sizes.value_height;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const unsigned xk = x + (k & 1), yk = y + (k >> 1);
      pixel[k] = yk * width + xk;
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

template <class T, class L, int D, int P>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const Sizes sizes, const typename T::Item* value, const typename L::Item* offsets,
                   const typename L::Item* logits, typename T::Item* out) {
  using A = Layout<T, D>;
  using Vector = Packed<T, A::kWidth>;
  const Place place(A::kThreadsPerHead);
  if (!place.exists(sizes)) return;
  const int channels = D ? D : sizes.channels, pitch = sizes.heads * channels;
  const Points<L, P> points = points_of<L, P>(place, sizes, offsets, logits);
  const auto* map = value + place.image * sizes.value_height * sizes.value_width * pitch + place.head * channels;
  auto* to = out + place.row(sizes) * channels;
  // All channels at once, unless there are more than registers.
  for (int first = place.lane * A::kWidth; first < channels; first += A::kVectors * A::kStride) {
    float sum[A::kChannels] = {};
#pragma unroll
    for (int p = 0; p < points.count(); ++p) {
      const Point point = points[p];
      const Corners corners(point, sizes);
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

// Sum is float, or int64_t for sums in fixed point. GradLogits is L, but Float for P = 0: there it first keeps every point's
// gradient before the softmax.
template <class T, class L, int D, int P, class Sum, class GradLogits>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const Sizes sizes, const typename T::Item* grad_out, const typename T::Item* value,
                    const typename L::Item* offsets, const typename L::Item* logits, Sum* grad_value,
                    typename L::Item* grad_offsets, typename GradLogits::Item* grad_logits, const uint32_t* largest) {
  using A = Layout<T, D>;
  using Vector = Packed<T, A::kWidth>;
  const Place place(A::kThreadsPerHead);
  if (!place.exists(sizes)) return;
  const int channels = D ? D : sizes.channels, pitch = sizes.heads * channels, begin = place.lane * A::kWidth;
  const int64_t row = place.row(sizes);
  const Points<L, P> points = points_of<L, P>(place, sizes, offsets, logits);
  const int64_t map = place.image * sizes.value_height * sizes.value_width * pitch + place.head * channels;
  const float scale = largest ? fixed_point_scale(*largest, sizes.count_bits) : 1.f;

  float out[A::kChannels] = {};  // the gradient of this thread's channels
  const auto read_grad_out = [&](int first) {
    for_each_vector<T, D>(first, channels, [&](int i, int channel) {
      Vector packed;
      packed.load(grad_out + row * channels + channel);
      packed.to_floats(out + i * A::kWidth);
    });
  };
  if constexpr (D > 0) read_grad_out(begin);

  float of_offset[2 * (P ? P : 1)], of_attention[P ? P : 1], mean = 0;
#pragma unroll
  for (int p = 0; p < points.count(); ++p) {
    const Point point = points[p];
    const Corners corners(point, sizes);
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
        const float weight = scale * point.attention * corners.weight_x(k) * corners.weight_y(k);
        Sum* to = grad_value + map + static_cast<int64_t>(corners.pixel[k]) * pitch;
        if (corners.inside[k])
          for_each_vector<T, D>(first, channels, [&](int i, int channel) { add<A::kWidth>(to + channel, out + i * A::kWidth, weight); });
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
    of_x = point.attention * sum_over_threads<A::kThreadsPerHead>(of_x);
    of_y = point.attention * sum_over_threads<A::kThreadsPerHead>(of_y);
    mean += point.attention * sampled;
    const int at = P ? p : 0;
    of_attention[at] = sampled, of_offset[2 * at] = of_x, of_offset[2 * at + 1] = of_y;
    if (P == 0 && place.lane == 0) {
      const float pair[2] = {of_x, of_y};
      store_all<L, 2>(grad_offsets + (row * sizes.points + p) * 2, pair);
      store_all<GradLogits, 1>(grad_logits + row * sizes.points + p, {sampled});
    }
  }
  if (place.lane != 0) return;
  if constexpr (P > 0) {
#pragma unroll
    for (int p = 0; p < P; ++p) of_attention[p] = points.attention[p] * (of_attention[p] - mean);
    store_all<L, 2 * P>(grad_offsets + row * 2 * P, of_offset);
    store_all<GradLogits, P>(grad_logits + row * P, of_attention);
  } else {
    for (int p = 0; p < sizes.points; ++p) {
      auto* at = grad_logits + row * sizes.points + p;
      *at = points[p].attention * (*at - mean);
    }
  }
}

// The bits of the largest |x|: as unsigned numbers they are in the order of the floats, then inf, then NaN.
template <class T>
__global__ void __launch_bounds__(kThreads) largest_kernel(const typename T::Item* from, int64_t count, uint32_t* largest) {
  uint32_t found = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    float x[1];
    load_all<T, 1>(from + i, x);
    found = max(found, __float_as_uint(x[0]) & 0x7fffffff);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) found = max(found, __shfl_xor_sync(~0u, found, step));
  if (threadIdx.x % 32 == 0) atomicMax(largest, found);
}

// The value's gradient from its sums.
template <class T, class Sum>
__global__ void __launch_bounds__(kThreads)
    round_kernel(const Sum* sums, int64_t count, const uint32_t* largest, int count_bits, typename T::Item* to) {
  const float unit = largest ? 1 / fixed_point_scale(*largest, count_bits) : 1.f;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * kThreads)
    store_all<T, 1>(to + i, {static_cast<float>(sums[i]) * unit});
}

}  // namespace piip::cuda
