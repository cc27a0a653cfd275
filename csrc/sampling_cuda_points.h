// The points of msda and dcnv3 on a GPU: anywhere, any number, with weights as they are. L stores coordinates and weights.
#pragma once
#include "cuda_kernel.h"
#include "sampling_cuda.h"

namespace piip::cuda {

template <class L>
struct Placed {
  struct Given {
    const typename L::Item *coordinates, *weights;
    float step;
    unsigned divide_by;  // p / points of a tap is p * divide_by >> 31
    sampling::Tap taps[sampling::kMostTaps];
  };
  struct Gradients {
    typename L::Item *coordinates, *weights;
  };
  static constexpr bool kAnyWeight = true;

  const Given& given;
  int points;
  int64_t row;
  float x, y;

  __device__ Placed(const Given& given, const Sizes& sizes, const Place& place)
      : given(given), points(sizes.points), row(place.row(sizes) * sizes.points) {
    place.cell(sizes, x, y);
    x *= given.step, y *= given.step;
  }
  __device__ int count() const { return points; }
  __device__ const sampling::Tap& tap(int p) const { return given.taps[__umulhi(2 * p, given.divide_by)]; }
  __device__ Map map(int p) const { return {tap(p).height, tap(p).width, tap(p).first}; }
  __device__ Point operator[](int p) const {
    float pair[2];
    load_all<L, 2>(given.coordinates + 2 * (row + p), pair);
    return {fmaf(pair[0], tap(p).scale_x, tap(p).shift_x + x), fmaf(pair[1], tap(p).scale_y, tap(p).shift_y + y),
            load_one<L>(given.weights + row + p)};
  }

  // What one point sampled times the gradient, and how that changes with its place.
  __device__ void take(int p, const Point& point, float sampled, float of_x, float of_y, const Gradients& to, const Sizes&,
                       const Place& place) {
    if (place.lane != 0) return;
    const float pair[2] = {point.attention * of_x * tap(p).scale_x, point.attention * of_y * tap(p).scale_y};
    store_all<L, 2>(to.coordinates + 2 * (row + p), pair);
    store_one<L>(to.weights + row + p, sampled);
  }
  __device__ void write(const Gradients&, const Given&, const Sizes&, const Place&) {}
};

}  // namespace piip::cuda
