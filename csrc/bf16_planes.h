// The kernel's own copies of bf16 maps, one plane per head, with the border of planes.h; W is the number of a pixel's channels there.
#pragma once
#include "bf16.h"
#include "group.h"

namespace piip::PIIP_ISA {
namespace {

inline uint16_t* bf16_data(const Array& array) { return static_cast<uint16_t*>(array.data); }

// Sizes of planes, in channels.
template <int W>
struct Bf16Layout {
  int64_t row, plane, size;  // of a row, of a head, of all heads
  explicit Bf16Layout(const Call& call)
      : row(W * (call.value_width + 2 * kBorder)), plane(row * (call.value_height + 2 * kBorder)), size(plane * call.heads_per_group) {}
  int64_t at(int64_t y, int64_t x) const { return (y + kBorder) * row + (x + kBorder) * W; }

  // What lies around the maps; they fill the rest.
  template <class T>
  void clear_borders(T* data) const {
    constexpr int64_t kSide = kBorder * W;
    for (T* head = data; head < data + size; head += plane) {
      T *first = head + kBorder * row, *last = head + plane - kBorder * row;
      std::fill(head, first, T(0)), std::fill(last, head + plane, T(0));
      for (; first < last; first += row) std::fill_n(first, kSide, T(0)), std::fill_n(first + row - kSide, kSide, T(0));
    }
  }
};

// For the forward pass. A lane holds a channel of a pixel and of the pixel below it.
template <int W>
struct ColumnPlanes : Bf16Layout<W> {
  Scratch memory;
  int32_t* data;
  explicit ColumnPlanes(const Call& call)
      : Bf16Layout<W>(call), memory(this->size * sizeof(int32_t)), data(static_cast<int32_t*>(memory.data())) {
    this->clear_borders(data);
  }

  void read(const Group& group) {
    const Call& call = group.call;
    const int64_t up = call.value_width * call.heads * call.channels;
    const uint32_t mask = first(call.channels);
    group.for_each_pixel<float, true>(call.value, [&](int64_t y, int64_t x, int64_t place) {
      const uint16_t* from = bf16_data(call.value) + place;
      int32_t* to = data + this->at(y, x);
      for (int64_t h = 0; h < group.heads; ++h, from += call.channels, to += this->plane) {
        const auto here = read_bf16<W>(from, mask);
        store(to - this->row, (y > 0 ? read_bf16<W>(from - up, mask) : Vec<int32_t, W>{}) | here << 16);
        if (y == call.value_height - 1) store(to, here);
      }
    });
  }
};

// For the backward pass: the value in bf16, apart from its gradient.
template <int W>
struct GradientPlanes : Bf16Layout<W> {
  Scratch memory;
  float* gradient;
  uint16_t* value;
  explicit GradientPlanes(const Call& call)
      : Bf16Layout<W>(call),
        memory(this->size * (sizeof(float) + sizeof(uint16_t))),
        gradient(static_cast<float*>(memory.data())),
        value(reinterpret_cast<uint16_t*>(gradient + this->size)) {
    this->clear_borders(value);
  }

  void read(const Group& group) {
    const Call& call = group.call;
    std::fill(gradient, gradient + this->size, 0.f);
    const uint32_t mask = first(call.channels);
    group.for_each_pixel<float, true>(call.value, [&](int64_t y, int64_t x, int64_t place) {
      const uint16_t* from = bf16_data(call.value) + place;
      uint16_t* to = value + this->at(y, x);
      for (int64_t h = 0; h < group.heads; ++h, from += call.channels, to += this->plane) {
        if constexpr (W == 16) {
          _mm256_storeu_si256((__m256i*)to, _mm256_maskz_loadu_epi16(__mmask16(mask), from));
        } else {
          _mm_storeu_si128((__m128i*)to, _mm_maskz_loadu_epi16(__mmask8(mask), from));
        }
      }
    });
  }

  void write(const Group& group) const {
    const Call& call = group.call;
    const int64_t width = group.heads * call.channels;
    alignas(64) uint16_t row[kMostHeads * W + W];
    group.for_each_pixel<float, false>(call.grad_value, [&](int64_t y, int64_t x, int64_t place) {
      const float* from = gradient + this->at(y, x);
      for (int64_t h = 0; h < group.heads; ++h, from += this->plane)
        write_bf16<W>(row + h * call.channels, first(W), load<Vec<float, W>>(from));  // the next head overwrites padding
      stream_bf16(row, width, bf16_data(call.grad_value) + place);
    });
    finish_streams();
  }

  static void stream_bf16(const uint16_t* from, int64_t count, uint16_t* to) {
    if (count % 32 || reinterpret_cast<uintptr_t>(to) % 64) return copy_out<32>(from, count, to);
    for (int64_t i = 0; i < count; i += 32) store_streaming(to + i, load<Vec<uint16_t, 32>>(from + i));
  }
};

}  // namespace
}  // namespace piip::PIIP_ISA
