// Reading and writing the elements of an Array in vectors, as the arithmetic type A. In the instruction set's namespace, as vec.h.
#pragma once
#include <algorithm>

#include "array.h"
#include "vec.h"

namespace piip::PIIP_ISA {
namespace {

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
// As a Stored is stored.
template <class Stored, int N, class A>
inline Vec<Stored, N> narrowed(const Vec<A, N>& v) {
  if constexpr (std::is_same_v<Stored, A>) {
    return v;
  } else {
    return to_bf16<N>(v);
  }
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
  for (; i + N <= count; i += N) store(to + i, narrowed<Stored, N, A>(load<Vec<A, N>>(from + i)));
  if constexpr (N > 1) copy_out<N / 2>(from + i, count - i, to + i);
}
// `count` elements from or to a tensor.
template <class A>
inline void read(const Array& array, int64_t start, int64_t count, A* __restrict to) {
  for_stored<A>(array, start, [&](const auto* from) { copy_in<kLanes<A>>(from, count, to); });
}
template <class A>
inline void write(const Array& array, int64_t start, int64_t count, const A* __restrict from) {
  for_stored<A>(array, start, [&](auto* to) { copy_out<kLanes<A>>(from, count, to); });
}

// A store that goes past the caches, where there is one of this size.
template <class T, class V>
inline void store_streaming(T* to, const V& v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), load<__m512i>(&v));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), load<__m256i>(&v));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(to), load<__m128i>(&v));
#endif
  store(to, v);
}

// `write` past the caches, for much that is not read soon: a line written without being read first is half of the traffic. Lines
// that would not be whole go the usual way. `finish_streams` comes after the last.
template <class A>
inline void stream(const Array& array, int64_t start, int64_t count, const A* __restrict from) {
  constexpr int N = kLanes<A>, kLine = 64;
  for_stored<A>(array, start, [&]<class Stored>(Stored* to) {
    if (count * sizeof(*to) % kLine || reinterpret_cast<uintptr_t>(to) % kLine) return copy_out<N>(from, count, to);
    for (int64_t i = 0; i < count; i += N) store_streaming(to + i, narrowed<Stored, N, A>(load<Vec<A, N>>(from + i)));
  });
}
inline void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Parts of a vector, at the end of a tensor or of a group's share: rare, so compiled once and called.
template <class A>
[[gnu::noinline]] void read_some(const Array& array, int64_t start, int64_t count, A* to) {
  read(array, start, count, to);
}
template <class A>
[[gnu::noinline]] void write_some(const Array& array, int64_t start, int64_t count, const A* from) {
  write(array, start, count, from);
}

// A vector of elements; zeros past the end of the tensor, which has `size` elements.
template <class A>
[[gnu::always_inline]] inline Vec<A, kLanes<A>> read_lanes(const Array& array, int64_t start, int64_t size) {
  constexpr int L = kLanes<A>;
  Vec<A, L> v{};
  if (start + L <= size) {
    for_stored<A>(array, start, [&](const auto* from) { v = widened<L>(from); });
  } else {
    A last[L] = {};
    read_some(array, start, std::max<int64_t>(0, size - start), last);
    v = load<Vec<A, L>>(last);
  }
  return v;
}

// The first `count` elements of a vector.
template <class A>
[[gnu::always_inline]] inline void write_lanes(const Array& array, int64_t start, int64_t count, const Vec<A, kLanes<A>>& v) {
  if (count == kLanes<A>) {
    for_stored<A>(array, start, [&]<class Stored>(Stored* to) { store(to, narrowed<Stored, kLanes<A>, A>(v)); });
  } else {
    A all[kLanes<A>];
    store(all, v);
    write_some(array, start, count, all);
  }
}

// `count` <= W channels; zeros after them.
template <class A, int W>
inline Channels<A, W> read_channels(const Array& array, int64_t start, int64_t count, int64_t size) {
  Channels<A, W> channels;
  if (start + W <= size) {
    for_stored<A>(array, start, [&](const auto* from) { channels = Channels<A, W>::from(from).only(int(count)); });
  } else {
    A last[W] = {};
    read_some(array, start, count, last);
    channels = Channels<A, W>::from(last);
  }
  return channels;
}

// W channels, of which those before `end` count: padding is overwritten by what comes next.
template <class A, int W>
[[gnu::always_inline]] inline void write_channels(const Array& array, int64_t start, int64_t end, const Channels<A, W>& channels) {
  if (start + W <= end) {
    for_stored<A>(array, start, [&](auto* to) { channels.to(to); });
  } else {
    A all[W];
    channels.to(all);
    write(array, start, end - start, all);
  }
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

}  // namespace
}  // namespace piip::PIIP_ISA
