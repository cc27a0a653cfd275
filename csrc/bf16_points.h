// Where the points of a query are, what they weigh, and the gradients of both, where the value is bf16 and a head has four points. In
// float32 as points.h, but for the softmax (bf16.h).
#pragma once
#include <algorithm>
#include <vector>

#include "bf16.h"
#include "deform_attn_kernel.h"

namespace piip::PIIP_ISA {
namespace {

constexpr int kPoints = 4, kMost = kPoints * kMostHeads;  // of a head; of a group, where point p of head h is at h * 4 + p

// Where the points of one query are, and for the forward pass what they weigh.
struct Located {
  alignas(64) int32_t corner[kMost];  // top left, in the planes
  // Weights of the two corners of a column, (upper, lower), as a sum of two bf16 each.
  alignas(64) int32_t left[kMost], right[kMost], left_rest[kMost], right_rest[kMost];
};

// Stored: what offsets and logits are, uint16_t (bf16) or float.
template <class Stored>
struct FourPoints {
  static constexpr int L = 16;
  const Call& call;
  const Stored *offsets, *logits;
  int32_t width, height;  // of the map
  int32_t row, pixel;     // of a plane
  alignas(64) int32_t head_start[kMost];  // pixel (0, 0) of the head's plane; of heads that are not there, of the last
  // For the gradients: weights of top left, top right, bottom left and bottom right; attention; fractions of a pixel; output gradient .
  // corner, for each head first four points' top left ones, then top right ones, and so on.
  alignas(64) float weight[4][kMost], attention[kMost], x[kMost], y[kMost], dot[4 * kMost] = {};
  std::vector<float> x_reference, y_reference;  // reference point of each column and row of queries, in value pixels, minus 0.5

  FourPoints(const Call& call, int64_t row, int64_t pixel, int64_t plane)
      : call(call), offsets(static_cast<const Stored*>(call.offsets.data)), logits(static_cast<const Stored*>(call.logits.data)),
        width(int32_t(call.value_width)), height(int32_t(call.value_height)), row(int32_t(row)), pixel(int32_t(pixel)),
        x_reference(call.query_width), y_reference(call.query_height) {
    for (int64_t i = 0; i < kMost; ++i)
      head_start[i] = int32_t(std::min(i / kPoints, call.heads_per_group - 1) * plane + kBorder * (row + pixel));
    for (int64_t c = 0; c < call.query_width; ++c) x_reference[c] = float((c + 0.5) / call.query_width * call.value_width - 0.5);
    for (int64_t r = 0; r < call.query_height; ++r) y_reference[r] = float((r + 0.5) / call.query_height * call.value_height - 0.5);
  }

  int64_t offsets_at(int64_t query, int64_t first_head) const { return query * call.offsets_row + 2 * first_head * kPoints; }
  int64_t logits_at(int64_t query, int64_t first_head) const { return query * call.logits_row + first_head * kPoints; }

  // Integer part of a coordinate, from -kBorder to `size`, where pixels are zero. The coordinate becomes its fraction, NaN where it is
  // not finite.
  [[gnu::always_inline]] static I split(V& coordinate, int32_t size) {
    const V whole = _mm512_roundscale_ps(coordinate, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    coordinate = coordinate - whole;
    const __m512i integer = _mm512_cvtps_epi32(whole);  // -2^31 for what does not fit
    return (I)_mm512_min_epi32(_mm512_max_epi32(integer, _mm512_set1_epi32(-kBorder)), _mm512_set1_epi32(size));
  }

  // Reads one query's offsets and logits; fills `to`, or in place of its weights what the gradients need.
  template <bool kGradients>
  [[gnu::always_inline]] void locate(int64_t query, float from_left, float from_top, int64_t first_head, int64_t heads, Located& to) {
    const Stored *offset = offsets + offsets_at(query, first_head), *logit = logits + logits_at(query, first_head);
    for (int64_t i = 0; i < heads * kPoints; i += L) {
      const int64_t count = std::min<int64_t>(L, heads * kPoints - i);
      auto [fx, fy] = read_pairs(offset + 2 * i, count);
      fx += from_left, fy += from_top;
      V a = softmax_of_four<std::is_same_v<Stored, float>>(read_first(logit + i, count));
      const I column = split(fx, width), line = split(fy, height);
      store(&to.corner[i], load<I>(&head_start[i]) + line * row + column * pixel);
      const V below = a * fy, above = a - below, top_right = above * fx, bottom_right = below * fx;
      const V top_left = above - top_right, bottom_left = below - bottom_right;
      if constexpr (kGradients) {
        store(&weight[0][i], top_left), store(&weight[1][i], top_right);
        store(&weight[2][i], bottom_left), store(&weight[3][i], bottom_right);
        a = fx * 0.f + (fy * 0.f + a);  // all gradients of a point that is nowhere are NaN
        store(&attention[i], a), store(&x[i], fx), store(&y[i], fy);
      } else {
        store_as_two(top_left, bottom_left, &to.left[i], &to.left_rest[i]);
        store_as_two(top_right, bottom_right, &to.right[i], &to.right_rest[i]);
      }
    }
  }

  // From `dot` to the gradients of one query's offsets and logits.
  [[gnu::noinline]] void write_gradients(int64_t query, int64_t first_head, int64_t heads) {
    Stored* to_offsets = static_cast<Stored*>(call.grad_offsets.data) + offsets_at(query, first_head);
    Stored* to_logits = static_cast<Stored*>(call.grad_logits.data) + logits_at(query, first_head);
    for (int64_t i = 0; i < heads * kPoints; i += L) {
      const int64_t count = std::min<int64_t>(L, heads * kPoints - i);
      const V fx = load<V>(&x[i]), fy = load<V>(&y[i]), a = load<V>(&attention[i]);
      const auto [d0, d1, d2, d3] = corners_apart(&dot[4 * i]);
      const V top = d0 + fx * (d1 - d0), bottom = d2 + fx * (d3 - d2);
      const V of_attention = top + fy * (bottom - top);
      const V of_x = a * ((d1 - d0) + fy * ((d3 - d2) - (d1 - d0))), of_y = a * (bottom - top);
      write_pairs(to_offsets + 2 * i, count, of_x, of_y);
      const V weighted = a * of_attention;
      V sum = weighted + __builtin_shuffle(weighted, lanes<float>([](int i) { return i ^ 1; }));
      sum += __builtin_shuffle(sum, lanes<float>([](int i) { return i ^ 2; }));
      write_first(to_logits + i, count, a * (of_attention - sum));
    }
  }

  struct Corners {
    V top_left, top_right, bottom_left, bottom_right;
  };
  // From four heads' corners to each corner of all 16 points: lanes of 128 bits transposed.
  [[gnu::always_inline]] static Corners corners_apart(const float* heads) {
    const V a = load<V>(heads), b = load<V>(heads + L), c = load<V>(heads + 2 * L), d = load<V>(heads + 3 * L);
    const V top_ab = _mm512_shuffle_f32x4(a, b, 0x44), bottom_ab = _mm512_shuffle_f32x4(a, b, 0xee);
    const V top_cd = _mm512_shuffle_f32x4(c, d, 0x44), bottom_cd = _mm512_shuffle_f32x4(c, d, 0xee);
    return {_mm512_shuffle_f32x4(top_ab, top_cd, 0x88), _mm512_shuffle_f32x4(top_ab, top_cd, 0xdd),
            _mm512_shuffle_f32x4(bottom_ab, bottom_cd, 0x88), _mm512_shuffle_f32x4(bottom_ab, bottom_cd, 0xdd)};
  }
};

}  // namespace
}  // namespace piip::PIIP_ISA
