// The elements of a tensor, as the kernels see them.
#pragma once
#include <cstdint>

namespace piip {

// A contiguous tensor. Its elements are bf16 where it says so, else of the arithmetic type (float, or double).
struct Array {
  void* data = nullptr;
  bool bf16 = false;
};

}  // namespace piip
