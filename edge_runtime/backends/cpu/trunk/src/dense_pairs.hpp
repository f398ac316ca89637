// Products of codes with rows of x two by two, for instruction sets that multiply two rows of weights with two rows of x
// at once. Included by dense_impl.hpp.
#pragma once
#include "dense.hpp"

namespace hobbit {
namespace {

// Two rows of int8, eight inputs at a time, and what becomes of their products with two rows of codes.
template <class V, int BITS, int TB, int FIRST, int COUNT>
inline void code_pairs(const uint8_t* weights, const QuantRows& x, size_t first, float* out, size_t stride) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kWidth = int(kRows) / V::kSlices, kPairs = TB / 2;
  constexpr int32_t kZero = BITS == 4 ? 8 : V::kZero8;
  constexpr size_t kStep = kRows * size_t(BITS);  // bytes of eight inputs of all rows
  const size_t steps = x.block / 8, width = x.blocks * x.block;
  F acc[TB][COUNT];
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < COUNT; ++s) acc[t][s] = V::set1(0.0f);
  for (size_t b = 0; b < x.blocks; ++b) {
    const float* scales = reinterpret_cast<const float*>(weights);
    const uint8_t* codes = weights + 4 * kRows;
    const int8_t* q = x.q + first * width + b * x.block;
    I sum[kPairs][COUNT][2];  // of rows 0 and 1, and of 2 and 3 of a slice: [row][token]
    for (int p = 0; p < kPairs; ++p)
      for (int s = 0; s < COUNT; ++s) sum[p][s][0] = sum[p][s][1] = V::ints(0);
    for (size_t step = 0; step < steps; ++step) {
      V::prefetch(codes + kStep * step);
      typename V::Two two[kPairs];
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p)
        two[p] = V::two_rows(q + size_t(2 * p) * width + 8 * step, q + size_t(2 * p + 1) * width + 8 * step);
#pragma GCC unroll 4
      for (int s = 0; s < COUNT; ++s) {
        typename V::Two rows[2];
        V::template two_of_codes<BITS>(codes + kStep * step + size_t(4 * kWidth * (FIRST + s)), rows);
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; ++p)
          for (int half = 0; half < 2; ++half) sum[p][s][half] = V::dot_two(sum[p][s][half], rows[half], two[p]);
      }
    }
#pragma GCC unroll 4
    for (int s = 0; s < COUNT; ++s) {
      const F scale = V::load(scales + kWidth * (FIRST + s));
#pragma GCC unroll 16
      for (int t = 0; t < TB; ++t) {
        const size_t at = (first + size_t(t)) * x.blocks + b;
        I whole = V::of_row(sum[t / 2][s], t % 2);
        if (kZero != 0) whole = V::add_ints(whole, V::ints(-kZero * x.sum[at]));
        acc[t][s] = V::fma(V::mul(scale, V::set1(x.scale[at])), V::to_float(whole), acc[t][s]);
      }
    }
    weights = codes + kStep * steps;
  }
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < COUNT; ++s) V::store(out + size_t(t) * stride + size_t(kWidth * (FIRST + s)), acc[t][s]);
}

}  // namespace
}  // namespace hobbit
