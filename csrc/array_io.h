// Reading and writing the elements of an Array in vectors, as the arithmetic type A. In the instruction set's namespace, as vec.h.
#pragma once
#include <algorithm>

#include "array.h"
#include "vec.h"

namespace piip::PIIP_ISA {

// Calls `use` with a pointer to where element `start` is stored, of the type it is stored in.
template <class A>
inline void for_stored(const Array& array, int64_t start, auto&& use) {
  if constexpr (std::is_same_v<A, float>) {
    if (array.bf16) return use(static_cast<uint16_t*>(array.data) + start);
  }
  use(static_cast<A*>(array.data) + start);
}

template <int N>
inline Vec<float, N> widened(const uint16_t* from) {
  return from_bf16<N>(load<Vec<uint16_t, N>>(from));
}
template <int N, class A>
inline Vec<A, N> widened(const A* from) {
  return load<Vec<A, N>>(from);
}
template <int N>
inline void put(uint16_t* to, const Vec<float, N>& v) {
  store(to, to_bf16<N>(v));
}
template <int N, class A>
inline void put(A* to, const Vec<A, N>& v) {
  store(to, v);
}

// `count` elements: whole vectors first, then halves of vectors, and so on.
template <int N, class A, class Stored>
inline void copy_in(const Stored* from, int64_t count, A* to) {
  int64_t i = 0;
  for (; i + N <= count; i += N) store(to + i, widened<N>(from + i));
  if constexpr (N > 1) copy_in<N / 2>(from + i, count - i, to + i);
}
template <int N, class A, class Stored>
inline void copy_out(const A* from, int64_t count, Stored* to) {
  int64_t i = 0;
  for (; i + N <= count; i += N) put<N>(to + i, load<Vec<A, N>>(from + i));
  if constexpr (N > 1) copy_out<N / 2>(from + i, count - i, to + i);
}
// `count` elements from or to a tensor. kUsual: the count nearly all calls have, if it is known when compiling.
template <class A, int kUsual = 0>
inline void read(const Array& array, int64_t start, int64_t count, A* __restrict to) {
  for_stored<A>(array, start, [&](const auto* from) { copy_in<kLanes<A>>(from, count == kUsual ? kUsual : count, to); });
}
template <class A, int kUsual = 0>
inline void write(const Array& array, int64_t start, int64_t count, const A* __restrict from) {
  for_stored<A>(array, start, [&](auto* to) { copy_out<kLanes<A>>(from, count == kUsual ? kUsual : count, to); });
}

// A vector of elements; zeros past the end of the tensor, which has `size` elements.
template <class A>
inline Vec<A, kLanes<A>> read_lanes(const Array& array, int64_t start, int64_t size) {
  constexpr int L = kLanes<A>;
  Vec<A, L> v{};
  if (start + L <= size) {
    for_stored<A>(array, start, [&](const auto* from) { v = widened<L>(from); });
  } else {
    A last[L] = {};
    read(array, start, std::max<int64_t>(0, size - start), last);
    v = load<Vec<A, L>>(last);
  }
  return v;
}

// `count` <= W channels; zeros after them.
template <class A, int W>
inline Channels<A, W> read_channels(const Array& array, int64_t start, int64_t count, int64_t size) {
  Channels<A, W> channels;
  if (start + W <= size) {
    for_stored<A>(array, start, [&](const auto* from) { channels = Channels<A, W>::from(from).only(int(count)); });
  } else {
    A last[W] = {};
    read(array, start, count, last);
    channels = Channels<A, W>::from(last);
  }
  return channels;
}

// Asks for elements that are needed soon. A group's share of a tensor comes in short pieces far apart, which the processor does
// not foresee: without this, half of the time is waiting for memory. Inline always: GCC takes a function that only prefetches
// for one that does nothing, and drops the call.
template <class A, int kForWriting>
[[gnu::always_inline]] inline void prefetch(const Array& array, int64_t start, int64_t count) {
  const int64_t bytes = array.bf16 ? 2 : sizeof(A);
  const char *first = static_cast<const char*>(array.data) + start * bytes, *last = first + count * bytes - 1;
  for (const char* line = first; line < last; line += 64) __builtin_prefetch(line, kForWriting);
  __builtin_prefetch(last, kForWriting);
}

}  // namespace piip::PIIP_ISA
