// What deform_attn_kernel.cpp does, for a bf16 value, four points and up to 16 channels a head, on AVX512-BF16: twice as many products an
// instruction, of bf16, exact, and added in float32.
//
// Forward: a lane of a plane holds a pixel and the one below, so that one load and one product make two corners. A weight is the sum of two
// bf16, with 16 bits: the result is that of float32 arithmetic but for 2^-12 of it, an eighth of what rounding it to bf16 loses. Backward:
// the products of output gradients and corners are over pairs of channels; the value's gradient is summed in float32, with weights in
// float32.
#include "bf16_planes.h"
#include "bf16_points.h"

namespace piip::PIIP_ISA {
namespace {

// The sum of the four points of `head`: the columns left and right of a point are neighbours, one vector.
[[gnu::always_inline]] inline V sample_columns(const Located& points, const int32_t* planes, int64_t head) {
  const auto both = [&](const int32_t* left, const int32_t* right) __attribute__((always_inline)) {
    const int64_t first = kPoints * head;
    return as_bits(four_twice(reinterpret_cast<const float*>(left + first), reinterpret_cast<const float*>(right + first)));
  };
  const I most = both(points.left, points.right), rest = both(points.left_rest, points.right_rest);
  const auto first = lanes<float>([](int i) { return i / 4 * 4; });
  V sum{}, sum_of_rest{};
  const auto add = [&](int p) __attribute__((always_inline)) {
    const I columns = load<I>(planes + points.corner[kPoints * head + p]);
    sum = add_products<16>(sum, columns, __builtin_shuffle(most, first + p));
    sum_of_rest = add_products<16>(sum_of_rest, columns, __builtin_shuffle(rest, first + p));
  };
  add(0), add(1), add(2), add(3);
  return sum + sum_of_rest;
}

[[gnu::always_inline]] inline V sample_wide(const Located& points, const int32_t* planes, int64_t head) {
  V left{}, right{}, left_rest{}, right_rest{};
  for (int64_t i = kPoints * head; i < kPoints * (head + 1); ++i) {
    const int32_t* at = planes + points.corner[i];
    const I columns = load<I>(at), next = load<I>(at + 16);
    left = add_products<16>(left, columns, I{} + points.left[i]);
    left_rest = add_products<16>(left_rest, columns, I{} + points.left_rest[i]);
    right = add_products<16>(right, next, I{} + points.right[i]);
    right_rest = add_products<16>(right_rest, next, I{} + points.right_rest[i]);
  }
  return (left + right) + (left_rest + right_rest);
}

// 16 channels of results: of `head`, or of two heads with 8 each.
template <int W>
[[gnu::always_inline]] inline V sample(const Located& points, const int32_t* planes, int64_t head) {
  if constexpr (W == 16) {
    return sample_wide(points, planes, head);
  } else {
    const V a = sample_columns(points, planes, head), b = sample_columns(points, planes, head + 1);
    return V(_mm512_shuffle_f32x4(a, b, 0x44)) + V(_mm512_shuffle_f32x4(a, b, 0xee));
  }
}

template <int W, class Stored>
void forward(const Call& call, int64_t begin, int64_t end) {
  constexpr int kHeads = 16 / W;  // at once
  ColumnPlanes<W> planes(call);
  FourPoints<Stored> points(call, planes.row, W, planes.plane);
  Located located[2];  // of one query, and of the next: the processor does one while it waits for the other
  const int64_t width = call.channels;
  const Vec<int16_t, 16> together = without_padding<W>(width);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    planes.read(group);
    const int64_t heads = group.heads, start = group.image * call.queries();
    const auto sample_query = [&](int64_t query) __attribute__((always_inline)) {
      uint16_t* out = bf16_data(call.out) + group.channel_at(query);
      for (int64_t h = 0; h < heads; h += kHeads) {
        const auto rounded = (__m256i)_mm512_cvtneps_pbh(sample<W>(located[query % 2], planes.data, h));
        const auto channels = W == 16 ? rounded : _mm256_permutexvar_epi16((__m256i)together, rounded);
        write_first(out + h * width, (heads - h) * width, channels);  // more than these heads' is overwritten by the next
      }
    };
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      expect<0>(points.offsets + points.offsets_at(later, group.first_head), 2 * heads * kPoints);
      expect<0>(points.logits + points.logits_at(later, group.first_head), heads * kPoints);
      expect<1>(bf16_data(call.out) + group.channel_at(later), heads * width);
      points.template locate<false>(query, points.x_reference[c], points.y_reference[r], group.first_head, heads, located[query % 2]);
      if (query > start) sample_query(query - 1);
    });
    sample_query(start + call.queries() - 1);
  }
}

// Of the corners top left, top right, bottom left and bottom right four sums each, to be added up.
[[gnu::always_inline]] inline V products(const uint16_t* at, int64_t row, Vec<int32_t, 4> out) {
  const auto top = load<__m256i>(at), bottom = load<__m256i>(at + row);
  return add_products<16>(V{}, (I)_mm512_inserti64x4(_mm512_castsi256_si512(top), bottom, 1), (I)_mm512_broadcast_i32x4((__m128i)out));
}
[[gnu::always_inline]] inline V products(const uint16_t* at, int64_t row, Vec<int32_t, 8> out) {
  const I twice = (I)_mm512_broadcast_i64x4((__m256i)out);
  const V top = add_products<16>(V{}, load<I>(at), twice), bottom = add_products<16>(V{}, load<I>(at + row), twice);
  return V(_mm512_shuffle_f32x4(top, bottom, 0x88)) + V(_mm512_shuffle_f32x4(top, bottom, 0xdd));
}

// Lane p of each four: the sum of p's four.
[[gnu::always_inline]] inline V added_up(V a, V b, V c, V d) {
  const V ab = V(_mm512_unpacklo_ps(a, b)) + V(_mm512_unpackhi_ps(a, b)), cd = V(_mm512_unpacklo_ps(c, d)) + V(_mm512_unpackhi_ps(c, d));
  return V(_mm512_shuffle_ps(ab, cd, 0x44)) + V(_mm512_shuffle_ps(ab, cd, 0xee));
}

template <int W, class Stored>
void backward(const Call& call, int64_t begin, int64_t end) {
  GradientPlanes<W> planes(call);
  FourPoints<Stored> points(call, planes.row, W, planes.plane);
  const int64_t width = call.channels, row = planes.row;
  Located located;
  const uint32_t mask = first(width);
  for (int64_t item = begin; item < end; ++item) {
    const Group group(call, item);
    planes.read(group);
    const int64_t heads = group.heads;
    group.for_each_query([&](int64_t r, int64_t c, int64_t query, int64_t later) {
      expect<0>(points.offsets + points.offsets_at(later, group.first_head), 2 * heads * kPoints);
      expect<0>(points.logits + points.logits_at(later, group.first_head), heads * kPoints);
      expect<0>(bf16_data(call.grad_out) + group.channel_at(later), heads * width);
      expect<1>(static_cast<Stored*>(call.grad_offsets.data) + points.offsets_at(later, group.first_head), 2 * heads * kPoints);
      expect<1>(static_cast<Stored*>(call.grad_logits.data) + points.logits_at(later, group.first_head), heads * kPoints);
      points.template locate<true>(query, points.x_reference[c], points.y_reference[r], group.first_head, heads, located);
      const uint16_t* grad_out = bf16_data(call.grad_out) + group.channel_at(query);
      for (int64_t h = 0; h < heads; ++h) {
        const auto stored = read_bf16<W>(grad_out + h * width, mask);
        const auto bits = stored << 16;
        const auto out = load<Vec<float, W>>(reinterpret_cast<const float*>(&bits));
        const auto pairs = __builtin_convertvector(stored, Vec<uint16_t, W>);
        const auto pairs_of_channels = load<Vec<int32_t, W / 2>>(reinterpret_cast<const int32_t*>(&pairs));
        const auto visit = [&](int64_t i) __attribute__((always_inline)) {
          float *above = planes.gradient + located.corner[i], *below = above + row;
          const auto add = [&](float* at, float weight) __attribute__((always_inline)) {
            store(at, load<Vec<float, W>>(at) + weight * out);
          };
          add(above, points.weight[0][i]), add(above + W, points.weight[1][i]);
          add(below, points.weight[2][i]), add(below + W, points.weight[3][i]);
          return products(planes.value + located.corner[i], row, pairs_of_channels);
        };
        const V a = visit(4 * h), b = visit(4 * h + 1), c = visit(4 * h + 2), d = visit(4 * h + 3);
        store(&points.dot[16 * h], added_up(a, b, c, d));
      }
      points.write_gradients(query, group.first_head, heads);
    });
    planes.write(group);
  }
}

// run(channels of a pixel, what offsets and logits are)
template <class Run>
void for_call(const Call& call, Run run) {
  const auto stored = [&](auto points) {
    call.channels <= 8 ? run(std::integral_constant<int, 8>{}, points) : run(std::integral_constant<int, 16>{}, points);
  };
  call.offsets.bf16 ? stored(uint16_t{}) : stored(float{});
}

void forward_bf16(const Call& call, int64_t begin, int64_t end) {
  for_call(call, [&](auto width, auto points) { forward<width, decltype(points)>(call, begin, end); });
}
void backward_bf16(const Call& call, int64_t begin, int64_t end) {
  for_call(call, [&](auto width, auto points) { backward<width, decltype(points)>(call, begin, end); });
}

}  // namespace

extern const Kernels kernels = {forward_bf16, backward_bf16};

}  // namespace piip::PIIP_ISA
