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

// The maps of a group of heads.
template <class A>
struct Planes {
  int64_t channels, row, plane;  // elements per pixel, per row, per head
  int64_t size;                  // of all heads
  A* data = nullptr;

  explicit Planes(const Call& call)
      : channels(padded_channels(call.channels)),
        row(channels * (call.value_width + 2 * kBorder)),
        plane(row * (call.value_height + 2 * kBorder)),
        size(plane * call.heads_per_group) {}

  void clear() { std::fill(data, data + size, A(0)); }

  A* pixel(int64_t head, int64_t y, int64_t x) {
    return data + head * plane + (y + kBorder) * row + (x + kBorder) * channels;
  }
};

}  // namespace piip::PIIP_ISA
