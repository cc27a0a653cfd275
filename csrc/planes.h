// The kernel's own copies of maps, one plane per head, in memory that a thread keeps.
#pragma once
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "array_io.h"
#include "deform_attn_kernel.h"

namespace piip::PIIP_ISA {

// Memory for one call. Each thread keeps the largest it was asked for: fresh memory costs a page fault every 4 KB, which took up to
// half of a call; huge pages save most of what is left, and misses of the TLB. What is larger than kKept goes back after the call.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (bytes <= kept().bytes) return;
    kept().resize((bytes + kHugePage - 1) / kHugePage * kHugePage);
  }
  ~Scratch() {
    constexpr size_t kKept = 64 << 20;
    if (kept().bytes > kKept) kept().resize(0);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return kept().memory; }

 private:
  static constexpr size_t kHugePage = 2 << 20;
  struct Kept {
    void* memory = nullptr;
    size_t bytes = 0;
    ~Kept() { std::free(memory); }
    void resize(size_t wanted) {
      std::free(memory);
      bytes = 0;
      memory = wanted ? std::aligned_alloc(kHugePage, wanted) : nullptr;
      if (wanted && !memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
      madvise(memory, wanted, MADV_HUGEPAGE);  // a wish: where it is refused, pages are small
#endif
      bytes = wanted;
    }
  };
  static Kept& kept() {
    static thread_local Kept memory;
    return memory;
  }
};

namespace {

// The maps of a group of heads. For the backward pass a pixel holds the value's channels, then those of its gradient: together
// they are one or two cache lines.
template <class A>
struct Planes {
  int64_t channels, pixel, row, plane;  // elements per map of a pixel, per pixel, per row, per head
  int64_t size;                         // of all heads
  Scratch memory;
  A* data;

  Planes(const Call& call, int maps)
      : channels(padded_channels(call.channels)),
        pixel(maps * channels),
        row(pixel * (call.value_width + 2 * kBorder)),
        plane(row * (call.value_height + 2 * kBorder)),
        size(plane * call.heads_per_group),
        memory(size * sizeof(A)),
        data(static_cast<A*>(memory.data())) {
    std::fill(data, data + size, A(0));  // only the borders and the padding of pixels stay so
  }

  A* at(int64_t y, int64_t x) { return data + (y + kBorder) * row + (x + kBorder) * pixel; }
};

}  // namespace
}  // namespace piip::PIIP_ISA
