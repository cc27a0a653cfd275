// The kernel's own copies of maps, one plane per head, in memory that a thread keeps.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "array_io.h"
#include "deform_attn_kernel.h"

namespace piip::PIIP_ISA {

// At least this much memory. Each thread keeps the largest it was asked for: fresh memory costs a page fault every 4 KB, which
// took up to half of a call; huge pages save most of what is left, and misses of the TLB.
inline void* scratch(size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  static thread_local std::unique_ptr<void, Free> memory;
  static thread_local size_t size = 0;
  if (bytes > size) {
    constexpr size_t kHugePage = 2 << 20;
    size = 0;
    memory.reset();
    const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    memory.reset(std::aligned_alloc(kHugePage, rounded));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(memory.get(), rounded, MADV_HUGEPAGE);  // a wish: where it is refused, pages are small
#endif
    size = rounded;
  }
  return memory.get();
}

// The maps of a group of heads. For the backward pass a pixel holds the value's channels, then those of its gradient: together
// they are one or two cache lines.
template <class A>
struct Planes {
  int64_t channels, pixel, row, plane;  // elements per map of a pixel, per pixel, per row, per head
  int64_t size;                         // of all heads
  A* data;

  Planes(const Call& call, int maps)
      : channels(padded_channels(call.channels)),
        pixel(maps * channels),
        row(pixel * (call.value_width + 2 * kBorder)),
        plane(row * (call.value_height + 2 * kBorder)),
        size(plane * call.heads_per_group),
        data(static_cast<A*>(scratch(size * sizeof(A)))) {
    std::fill(data, data + size, A(0));  // only the borders and the padding of pixels stay so
  }

  A* at(int64_t y, int64_t x) { return data + (y + kBorder) * row + (x + kBorder) * pixel; }
};

}  // namespace piip::PIIP_ISA
