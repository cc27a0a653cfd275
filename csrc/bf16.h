// AVX512-BF16: an instruction multiplies pairs of bf16 and adds both products to a float32 lane. A lane of a pair: lower and upper half.
#pragma once
#include <algorithm>

#include "vec.h"

namespace piip::PIIP_ISA {
namespace {

using V = Vec<float, 16>;
using I = Vec<int32_t, 16>;

inline V as_floats(I bits) { return load<V>(reinterpret_cast<const float*>(&bits)); }
inline I as_bits(V floats) { return load<I>(reinterpret_cast<const int32_t*>(&floats)); }

// The float32 of the lower and of the upper bf16 of every lane.
inline V lower(I pairs) { return as_floats(pairs << 16); }
inline V upper(I pairs) { return as_floats(pairs & int32_t(0xffff0000)); }

// sum + a.lower * b.lower + a.upper * b.upper
template <int N>
[[gnu::always_inline]] inline Vec<float, N> add_products(Vec<float, N> sum, Vec<int32_t, N> a, Vec<int32_t, N> b) {
  if constexpr (N == 16) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  } else {
    return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b);
  }
}

// Pairs of bf16, rounded to nearest, ties to even.
[[gnu::always_inline]] inline I rounded_pairs(V low, V high) {
  const I interleaved = lanes<float>([](int i) { return i | (i + 16) << 16; });  // halves of lanes
  return (I)_mm512_permutexvar_epi16((__m512i)interleaved, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Pairs of the upper halves: bf16, rounded to zero.
inline I truncated_pairs(V low, V high) {
  constexpr int kLowWhereZero = 0xd8;  // of the third, else high
  return (I)_mm512_ternarylogic_epi32(_mm512_srli_epi32((__m512i)as_bits(low), 16), (__m512i)as_bits(high),
                                      _mm512_set1_epi32(int32_t(0xffff0000)), kLowWhereZero);
}
// That, and what is missing from it: together 16 bits.
[[gnu::always_inline]] inline void store_as_two(V low, V high, int32_t* most, int32_t* rest) {
  store(most, truncated_pairs(low, high));
  store(rest, truncated_pairs(low - upper(as_bits(low)), high - upper(as_bits(high))));
}

// The first `count` of up to 32 lanes.
inline uint32_t first(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

// `count` <= W bf16, each the lower half of a lane; zeros after them. Reads nothing else.
template <int W>
[[gnu::always_inline]] inline Vec<int32_t, W> read_bf16(const uint16_t* from, uint32_t mask) {
  if constexpr (W == 16) {
    return (Vec<int32_t, W>)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(__mmask16(mask), from));
  } else {
    return (Vec<int32_t, W>)_mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(__mmask8(mask), from));
  }
}

// The lanes of `mask`, rounded to bf16.
template <int W>
[[gnu::always_inline]] inline void write_bf16(uint16_t* to, uint32_t mask, const Vec<float, W>& v) {
  if constexpr (W == 16) {
    const auto rounded = (__m256i)_mm512_cvtneps_pbh(v);
    if (mask == 0xffff) return _mm256_storeu_si256((__m256i*)to, rounded);
    _mm256_mask_storeu_epi16(to, __mmask16(mask), rounded);
  } else {
    const auto rounded = (__m128i)_mm256_cvtneps_pbh(v);
    if (mask == 0xff) return _mm_storeu_si128((__m128i*)to, rounded);
    _mm_mask_storeu_epi16(to, __mmask8(mask), rounded);
  }
}

// The first `count` of 16 bf16, or all.
[[gnu::always_inline]] inline void write_first(uint16_t* to, int64_t count, __m256i v) {
  if (count >= 16) return _mm256_storeu_si256((__m256i*)to, v);
  _mm256_mask_storeu_epi16(to, __mmask16(first(count)), v);
}

// The first `count` <= 16 numbers of a vector, bf16 or float32; reads and writes nothing else.
[[gnu::always_inline]] inline V read_first(const uint16_t* from, int64_t count) { return lower(read_bf16<16>(from, first(count))); }
[[gnu::always_inline]] inline V read_first(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(__mmask16(first(count)), from); }
[[gnu::always_inline]] inline void write_first(uint16_t* to, int64_t count, V v) { write_first(to, count, (__m256i)_mm512_cvtneps_pbh(v)); }
[[gnu::always_inline]] inline void write_first(float* to, int64_t count, V v) { _mm512_mask_storeu_ps(to, __mmask16(first(count)), v); }

// The same for pairs x y x y ...
struct Pairs {
  V x, y;
};
[[gnu::always_inline]] inline Pairs read_pairs(const uint16_t* from, int64_t count) {
  const I pairs = (I)_mm512_maskz_loadu_epi32(__mmask16(first(count)), from);
  return {lower(pairs), upper(pairs)};
}
[[gnu::always_inline]] inline Pairs read_pairs(const float* from, int64_t count) {
  const V a = read_first(from, std::min<int64_t>(16, 2 * count)), b = read_first(from + 16, std::max<int64_t>(0, 2 * count - 16));
  const I even = lanes<float>([](int i) { return 2 * i; });
  return {__builtin_shuffle(a, b, even), __builtin_shuffle(a, b, even + 1)};
}
[[gnu::always_inline]] inline void write_pairs(uint16_t* to, int64_t count, V x, V y) {
  _mm512_mask_storeu_epi32(to, __mmask16(first(count)), (__m512i)rounded_pairs(x, y));
}
[[gnu::always_inline]] inline void write_pairs(float* to, int64_t count, V x, V y) {
  const I low = lanes<float>([](int i) { return i / 2 + i % 2 * 16; });
  write_first(to, std::min<int64_t>(16, 2 * count), __builtin_shuffle(x, y, low));
  write_first(to + 16, std::max<int64_t>(0, 2 * count - 16), __builtin_shuffle(x, y, low + 8));
}

// Where the first `width` channels of each W of a vector of 16 are, one after the other.
template <int W>
Vec<int16_t, 16> without_padding(int64_t width) {
  Vec<int16_t, 16> from{};
  for (int i = 0; i < 16 / W * width; ++i) from[i] = int16_t(i / width * W + i % width);
  return from;
}

// `prefetch` of array_io.h where the type is known.
template <int kForWriting, class Stored>
[[gnu::always_inline]] inline void expect(const Stored* from, int64_t count) {
  const Stored* last = from + count - 1;
  for (; from < last; from += 64 / sizeof(Stored)) __builtin_prefetch(from, kForWriting);
  __builtin_prefetch(last, kForWriting);
}

// 2^r for r from 0 to 1, relative error below 2e-7, or 8e-5; minimax.
template <bool kExact>
[[gnu::always_inline]] inline V power_of_two(V r) {
  if constexpr (kExact) {
    V p = r * 1.877576658e-3f + 8.989340124e-3f;
    p = p * r + 5.582631804e-2f;
    p = p * r + 2.401536170e-1f;
    p = p * r + 6.931530732e-1f;
    return p * r + 9.999999251e-1f;
  } else {
    V p = r * 7.802528918e-2f + 2.260660514e-1f;
    p = p * r + 6.958338972e-1f;
    return p * r + 9.999252377e-1f;
  }
}

// e^(x - largest) of four neighbours, divided by its sum. Exact: but for float32's own errors; else relative error below 1.4e-4 (the
// reciprocal has 6e-5), a 14th of bf16's own.
template <bool kExact>
[[gnu::always_inline]] inline V softmax_of_four(V x) {
  const auto neighbour = lanes<float>([](int i) { return i ^ 1; }), pair = lanes<float>([](int i) { return i ^ 2; });
  V most = _mm512_max_ps(x, __builtin_shuffle(x, neighbour));
  most = _mm512_max_ps(most, __builtin_shuffle(most, pair));
  const V power = (x - most) * 1.44269504f;
  const V e = _mm512_scalef_ps(power_of_two<kExact>(_mm512_reduce_ps(power, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)), power);
  V sum = e + __builtin_shuffle(e, neighbour);
  sum += __builtin_shuffle(sum, pair);
  const V reciprocal = _mm512_rcp14_ps(sum);
  return e * (kExact ? reciprocal * (2.f - sum * reciprocal) : reciprocal);
}

}  // namespace
}  // namespace piip::PIIP_ISA
