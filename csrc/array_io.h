// Reading and writing the elements of an Array, converted to the arithmetic type A. In the instruction set's namespace, as vec.h.
#pragma once
#include <algorithm>

#include "array.h"
#include "vec.h"

namespace piip::PIIP_ISA {

// An element, or a vector of them: bf16 is the upper half of float32.
template <class F, class U32, class U16>
inline F from_bf16(U16 stored) {
  U32 bits;
  if constexpr (std::is_same_v<U32, uint32_t>) bits = stored;
  else bits = __builtin_convertvector(stored, U32);
  bits <<= 16;
  F x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return x == x ? uint16_t(rounded) : uint16_t(0x7fc0);                 // rounding up could turn a NaN into inf
}

// `count` elements from or to a tensor. kUsual: the count nearly all calls have, for which the compiler unrolls.
template <class A, int kUsual>
inline void read(const Array& array, int64_t start, int64_t count, A* __restrict to) {
  const auto copy = [&](const auto* __restrict from, int64_t n, auto convert) {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(from[i]);
  };
  const auto both = [&](int64_t n) {
    const auto widen = [](uint16_t e) { return A(from_bf16<float, uint32_t>(e)); };
    if (array.bf16) copy(static_cast<const uint16_t*>(array.data) + start, n, widen);
    else copy(static_cast<const A*>(array.data) + start, n, [](A e) { return e; });
  };
  count == kUsual ? both(kUsual) : both(count);
}

template <class A, int kUsual>
inline void write(const Array& array, int64_t start, int64_t count, const A* __restrict from) {
  const auto copy = [&](auto* __restrict to, int64_t n, auto convert) {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(from[i]);
  };
  const auto both = [&](int64_t n) {
    if (array.bf16) copy(static_cast<uint16_t*>(array.data) + start, n, [](A e) { return to_bf16(float(e)); });
    else copy(static_cast<A*>(array.data) + start, n, [](A e) { return e; });
  };
  count == kUsual ? both(kUsual) : both(count);
}

// A vector of elements; zeros past the end of the tensor, whose size is `size`.
template <class A>
inline Vec<A, kLanes<A>> read_lanes(const Array& array, int64_t start, int64_t size) {
  constexpr int L = kLanes<A>;
  if (start + L <= size) {
    if constexpr (std::is_same_v<A, float>) {
      using U16 = Vec<uint16_t, L>;
      if (array.bf16) return from_bf16<Vec<A, L>, Vec<uint32_t, L>>(load<U16>(static_cast<const uint16_t*>(array.data) + start));
    }
    return load<Vec<A, L>>(static_cast<const A*>(array.data) + start);
  }
  A last[L] = {};
  read<A, 0>(array, start, std::max<int64_t>(0, size - start), last);
  return load<Vec<A, L>>(last);
}

}  // namespace piip::PIIP_ISA
