// Short vectors on GCC's vector types: the same code becomes SSE, AVX2, AVX-512 or NEON.
// Everything lives in an unnamed namespace, so that the linker never mixes code of two instruction sets, and the compiler knows all callers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace piip::PIIP_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

template <class A, int N>
struct VecOf {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
};
template <class A, int N>
using Vec = typename VecOf<A, N>::type;

// The integer as wide as A: what comparing two vectors of A gives, and what indexes a plane.
template <class A>
using Int = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;

template <class V, class A>
inline V load(const A* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <class V, class A>
inline void store(A* to, const V& v) {
  std::memcpy(to, &v, sizeof(V));
}

// One instruction each; where one is NaN, the second.
template <class V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// f(0), f(1), ... of a function that needs nothing else: a constant, so that __builtin_shuffle by it is one instruction.
template <class A, int N = kLanes<A>>
[[gnu::always_inline]] inline Vec<Int<A>, N> lanes(auto f) {
  return [f]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return Vec<Int<A>, N>{Int<A>(f(i))...};
  }(std::make_integer_sequence<int, N>{});
}

// Adds the upper half of the lanes to the lower, until M are left.
template <int M, class A, int N>
[[gnu::always_inline]] inline Vec<A, M> folded(const Vec<A, N>& v) {
  if constexpr (N == M) {
    return v;
  } else {
    struct Halves {
      Vec<A, N / 2> low, high;
    } halves;
    std::memcpy(&halves, &v, sizeof(v));
    return folded<M, A, N / 2>(halves.low + halves.high);
  }
}

#if defined(__AVX512F__)
// Four floats twice, then four others twice: two loads.
[[gnu::always_inline]] inline Vec<float, 16> four_twice(const float* first, const float* second) {
  const __m512 both = _mm512_mask_broadcast_f32x4(_mm512_broadcast_f32x4(_mm_loadu_ps(first)), 0xff00, _mm_loadu_ps(second));
  return load<Vec<float, 16>>(reinterpret_cast<const float*>(&both));
}
#endif

// A vector from bf16, the upper halves of float32, and back: to nearest, ties to even.
template <int N>
inline Vec<float, N> from_bf16(const Vec<uint16_t, N>& stored) {
  const Vec<uint32_t, N> bits = __builtin_convertvector(stored, Vec<uint32_t, N>) << 16;
  return load<Vec<float, N>>(reinterpret_cast<const float*>(&bits));
}

template <int N>
inline Vec<uint16_t, N> to_bf16(const Vec<float, N>& x) {
  using U = Vec<uint32_t, N>;
  const U bits = load<U>(reinterpret_cast<const uint32_t*>(&x));
  const U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const U kept = x == x ? rounded : U{} + 0x7fc0;  // rounding up could turn a NaN into inf
  return __builtin_convertvector(kept, Vec<uint16_t, N>);
}

// W channels in registers, in as few vectors as the instruction set allows: 12 floats are 8 + 4 on AVX2. Inline always:
// GCC would pass wide ones through memory.
template <class A, int W>
struct Channels {
  static constexpr int kFirst = W >= 16 && kLanes<A> >= 16 ? 16 : W >= 8 && kLanes<A> >= 8 ? 8 : kLanes<A> >= 4 ? 4 : 2;
  static constexpr int kLast = W == kFirst ? kFirst : Channels<A, W - kFirst>::kLast;  // of the last vector
  Vec<A, kFirst> first{};
  Channels<A, W - kFirst> rest;

  [[gnu::always_inline]] static Channels from(const A* p) {
    Channels c;
    c.first = load<Vec<A, kFirst>>(p);
    c.rest = Channels<A, W - kFirst>::from(p + kFirst);
    return c;
  }
  [[gnu::always_inline]] static Channels from(const uint16_t* bf16) {
    Channels c;
    c.first = from_bf16<kFirst>(load<Vec<uint16_t, kFirst>>(bf16));
    c.rest = Channels<A, W - kFirst>::from(bf16 + kFirst);
    return c;
  }
  // Zero from channel `count` on, whatever was there.
  [[gnu::always_inline]] Channels only(int count) const {
    Channels c;
    c.first = lanes<A, kFirst>([](int i) { return i; }) < Int<A>(count) ? first : Vec<A, kFirst>{};
    c.rest = rest.only(count - kFirst);
    return c;
  }
  [[gnu::always_inline]] void to(A* p) const {
    store(p, first);
    rest.to(p + kFirst);
  }
  [[gnu::always_inline]] void to(uint16_t* bf16) const {
    store(bf16, to_bf16<kFirst>(first));
    rest.to(bf16 + kFirst);
  }
  [[gnu::always_inline]] void add(A weight, const Channels& other) {
    first += weight * other.first;
    rest.add(weight, other.rest);
  }
  [[gnu::always_inline]] void add(const Channels& other) {
    first += other.first;
    rest.add(other.rest);
  }
  // The products with another's channels, added up until one short vector is left.
  [[gnu::always_inline]] Vec<A, kLast> products(const Channels& other) const {
    const Vec<A, kLast> sum = folded<kLast, A, kFirst>(first * other.first);
    if constexpr (W == kFirst) {
      return sum;
    } else {
      return sum + rest.products(other.rest);
    }
  }
};

template <class A>
struct Channels<A, 0> {
  static constexpr int kLast = 0;
  static Channels from(const A*) { return {}; }
  static Channels from(const uint16_t*) { return {}; }
  Channels only(int) const { return {}; }
  void to(A*) const {}
  void to(uint16_t*) const {}
  void add(A, const Channels&) {}
  void add(const Channels&) {}
};

// (sum of a, sum of b, sum of c, sum of d)
template <class A, int N>
[[gnu::always_inline]] inline Vec<A, 4> sums(Vec<A, N> a, Vec<A, N> b, Vec<A, N> c, Vec<A, N> d) {
  if constexpr (N == 2) {
    return Vec<A, 4>{a[0] + a[1], b[0] + b[1], c[0] + c[1], d[0] + d[1]};
  } else {
    // Within every four lanes: a0 b0 a1 b1, and with two added a2 b2 a3 b3; a0 a1 b0 b1, and a2 a3 b2 b3.
    const auto low = lanes<A, N>([](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * N; });
    const auto left = lanes<A, N>([](int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * N; });
    const Vec<A, N> ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + 2);
    const Vec<A, N> cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, low + 2);
    return folded<4, A, N>(__builtin_shuffle(ab, cd, left) + __builtin_shuffle(ab, cd, left + 2));
  }
}

// e^x for x <= 0, relative error below 2e-7; below -87 as at -87, 2e-38. NaN stays NaN.
[[gnu::always_inline]] inline Vec<float, kLanes<float>> exp_nonpositive(Vec<float, kLanes<float>> x) {
  using V = Vec<float, kLanes<float>>;
  using I = Vec<int32_t, kLanes<float>>;
  const V bounded = larger(V{} - 87.f, x);
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact. Truncation after -0.5 rounds a negative number.
  const I n = __builtin_convertvector(bounded * 1.44269504f - 0.5f, I);
  const V whole = __builtin_convertvector(n, V);
  const V r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
  // Cephes' minimax polynomial for e^r.
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const I power_of_two = (n + 127) << 23;
  V scale;
  std::memcpy(&scale, &power_of_two, sizeof(V));
  return p * scale;
}

inline Vec<double, kLanes<double>> exp_nonpositive(Vec<double, kLanes<double>> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

}  // namespace
}  // namespace piip::PIIP_ISA
