// Storage types of the CUDA kernels, vectors of them in as few loads as alignment allows, and additions to memory that others add to.
#pragma once
#include <cstdint>

namespace piip::cuda {

// A storage type: `Item` in memory, `pack` and `unpack` between floats and 32-bit words.
struct Float {
  using Item = float;
  static constexpr int kPerWord = 1;
  __device__ static void unpack(uint32_t word, float* to) { to[0] = __uint_as_float(word); }
  __device__ static uint32_t pack(const float* from) { return __float_as_uint(from[0]); }
};

struct Half {
  using Item = uint16_t;
  static constexpr int kPerWord = 2;
  __device__ static void unpack(uint32_t word, float* to) {
    to[0] = __half2float(__ushort_as_half(word & 0xffff));
    to[1] = __half2float(__ushort_as_half(word >> 16));
  }
  __device__ static uint32_t pack(const float* from) {
    return __half_as_ushort(__float2half_rn(from[0])) | uint32_t(__half_as_ushort(__float2half_rn(from[1]))) << 16;
  }
};

struct BFloat {
  using Item = uint16_t;
  static constexpr int kPerWord = 2;
  __device__ static void unpack(uint32_t word, float* to) {  // bf16 is the upper half of a float
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000);
  }
  __device__ static uint32_t pack(const float* from) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(from[0])) |
           uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(from[1]))) << 16;
  }
};

// N neighbours (1, 2, 4 or 8) as they are in memory: one load or store of at most 16 bytes, zero until loaded.
template <class T, int N>
struct Packed {
  static constexpr int kBytes = N * sizeof(typename T::Item), kWords = (kBytes + 3) / 4;
  uint32_t word[kWords] = {};

  __device__ void load(const typename T::Item* from) {
    if constexpr (kBytes == 16) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from));
      word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
    } else if constexpr (kBytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
      word[0] = v.x, word[1] = v.y;
    } else if constexpr (kBytes == 4) {
      word[0] = __ldg(reinterpret_cast<const unsigned*>(from));
    } else {
      word[0] = __ldg(reinterpret_cast<const unsigned short*>(from));
    }
  }
  __device__ void store(typename T::Item* to) const {
    if constexpr (kBytes == 16) {
      *reinterpret_cast<uint4*>(to) = make_uint4(word[0], word[1], word[2], word[3]);
    } else if constexpr (kBytes == 8) {
      *reinterpret_cast<uint2*>(to) = make_uint2(word[0], word[1]);
    } else if constexpr (kBytes == 4) {
      *reinterpret_cast<unsigned*>(to) = word[0];
    } else {
      *reinterpret_cast<unsigned short*>(to) = word[0];
    }
  }
  __device__ void to_floats(float* to) const {
    if constexpr (kBytes == 2) {
      float pair[2];
      T::unpack(word[0], pair);
      to[0] = pair[0];
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) T::unpack(word[i], to + i * T::kPerWord);
    }
  }
  __device__ static Packed from_floats(const float* from) {
    Packed packed;
    if constexpr (kBytes == 2) {
      const float pair[2] = {from[0], 0};
      packed.word[0] = T::pack(pair);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) packed.word[i] = T::pack(from + i * T::kPerWord);
    }
    return packed;
  }
};

// The largest power of two of items that one load can take when N of them are one head.
template <class T, int N>
constexpr int kVector = [] {
  int items = 16 / sizeof(typename T::Item);
  while (N % items) items /= 2;
  return items;
}();

// N neighbours at an address aligned as `kVector<T, N>` asks for.
template <class T, int N>
__device__ void load_all(const typename T::Item* from, float (&to)[N]) {
  constexpr int kStep = kVector<T, N>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    Packed<T, kStep> packed;
    packed.load(from + i);
    packed.to_floats(to + i);
  }
}

template <class T, int N>
__device__ void store_all(typename T::Item* to, const float (&from)[N]) {
  constexpr int kStep = kVector<T, N>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) Packed<T, kStep>::from_floats(from + i).store(to + i);
}

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

// The power of two that makes integers of terms of size up to `largest` (bits of a float), `2^count_bits` of which fit an int64.
// NaN where the largest is NaN or inf: integers have neither, and they have to show.
__device__ inline float fixed_point_scale(uint32_t largest, int count_bits) {
  const int exponent = static_cast<int>(largest >> 23) - 126;  // largest < 2^exponent
  if (exponent == 129) return __uint_as_float(0x7fc00000);
  return __uint_as_float(static_cast<uint32_t>(min(62 - count_bits - exponent, 126) + 127) << 23);
}

}  // namespace piip::cuda
