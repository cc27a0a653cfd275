// Storage types of the CUDA kernels, and vectors of them in as few loads as alignment allows.
#pragma once
#include <cstdint>

namespace piip::cuda {

// A storage type: `Item` in memory, `pack` and `unpack` between floats and 32-bit words, `low` the first of a word.
struct Float {
  using Item = float;
  static constexpr int kPerWord = 1;
  __device__ static float low(uint32_t word) { return __uint_as_float(word); }
  __device__ static void unpack(uint32_t word, float* to) { to[0] = low(word); }
  __device__ static uint32_t pack(const float* from) { return __float_as_uint(from[0]); }
};

struct Half {
  using Item = uint16_t;
  static constexpr int kPerWord = 2;
  __device__ static float low(uint32_t word) { return __half2float(__ushort_as_half(word & 0xffff)); }
  __device__ static void unpack(uint32_t word, float* to) {
    to[0] = low(word);
    to[1] = __half2float(__ushort_as_half(word >> 16));
  }
  __device__ static uint32_t pack(const float* from) {
    return __half_as_ushort(__float2half_rn(from[0])) | uint32_t(__half_as_ushort(__float2half_rn(from[1]))) << 16;
  }
};

struct BFloat {
  using Item = uint16_t;
  static constexpr int kPerWord = 2;
  __device__ static float low(uint32_t word) { return __uint_as_float(word << 16); }  // bf16 is the upper half of a float
  __device__ static void unpack(uint32_t word, float* to) {
    to[0] = low(word);
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
      to[0] = T::low(word[0]);
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

template <class T>
__device__ float load_one(const typename T::Item* from) {
  float x[1];
  load_all<T, 1>(from, x);
  return x[0];
}

template <class T>
__device__ void store_one(typename T::Item* to, float from) {
  store_all<T, 1>(to, {from});
}

}  // namespace piip::cuda
