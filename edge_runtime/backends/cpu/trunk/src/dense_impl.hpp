// The dense part's loops, written once over a vector type V of a slice of a panel's 16 rows. One translation unit per
// instruction set includes this; all of it is in an unnamed namespace, as in panel_impl.hpp.
#pragma once
#include <cstring>

#include "dense.hpp"
#include "dense_pairs.hpp"
#include "float_math.hpp"

namespace hobbit {
namespace {

template <int N> struct Count { static constexpr int value = N; };

// Splits `count` rows into blocks of at most TB; `call(tb, first)` gets the block's size as a type.
template <int TB, class Call> inline void for_row_blocks(size_t count, Call&& call) {
  size_t first = 0;
  for (; count - first >= size_t(TB); first += size_t(TB)) call(Count<TB>(), first);
  if constexpr (TB > 1) for_row_blocks<TB / 2>(count - first, [&](auto tb, size_t at) { call(tb, first + at); });
}

// One chain of products an output, inputs in order.
template <class V, int TB, int PANELS>
inline void float_block(const float* weights, size_t inputs, const float* x, size_t x_stride, float* out,
                        size_t stride) {
  using F = typename V::F;
  constexpr int kSlices = V::kSlices, kWidth = int(kRows) / kSlices;
  F acc[PANELS][TB][kSlices];
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 16
    for (int t = 0; t < TB; ++t)
#pragma GCC unroll 4
      for (int s = 0; s < kSlices; ++s) acc[p][t][s] = V::set1(0.0f);
  for (size_t i = 0; i < inputs; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) {
      const float* at = weights + (size_t(p) * inputs + i) * kRows;
      V::prefetch(at);
#pragma GCC unroll 4
      for (int s = 0; s < kSlices; ++s) {
        const F w = V::load(at + kWidth * s);
#pragma GCC unroll 16
        for (int t = 0; t < TB; ++t)
          acc[p][t][s] = V::fma(w, V::set1(x[size_t(t) * x_stride + i]), acc[p][t][s]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 16
    for (int t = 0; t < TB; ++t)
#pragma GCC unroll 4
      for (int s = 0; s < kSlices; ++s)
        V::store(out + size_t(t) * stride + kRows * size_t(p) + size_t(kWidth * s), acc[p][t][s]);
}

template <class V>
void floats(const float* weights, size_t inputs, size_t panels, const float* x, size_t x_stride, size_t count,
            float* out, size_t stride) {
  for_row_blocks<V::kFloatRows>(count, [&](auto tb, size_t first) {
    constexpr int kBlock = decltype(tb)::value;
    const float* from = x + first * x_stride;
    float* to = out + first * stride;
    if (panels == 2 && kBlock <= V::kTwoPanels)
      return float_block<V, kBlock, kBlock <= V::kTwoPanels ? 2 : 1>(weights, inputs, from, x_stride, to, stride);
    for (size_t p = 0; p < panels; ++p)
      float_block<V, kBlock, 1>(weights + p * inputs * kRows, inputs, from, x_stride, to + kRows * p, stride);
  });
}

inline int32_t four(const int8_t* q) {
  int32_t v;
  std::memcpy(&v, q, 4);
  return v;
}

// Adds products of four inputs, from number `at` of a block, with 8-bit codes.
template <class V, int FIRST, int CHAIN, int TB, int COUNT, int CHAINS>
[[gnu::always_inline]] inline void step_of_8(const uint8_t* codes, const int8_t* const (&q)[TB], size_t at,
                                             typename V::I (&sum)[TB][COUNT][CHAINS]) {
#pragma GCC unroll 4
  for (int s = 0; s < COUNT; ++s) {
    const auto w = V::load8(codes + size_t(4 * int(kRows) / V::kSlices * (FIRST + s)));
#pragma GCC unroll 16
    for (int t = 0; t < TB; ++t) sum[t][s][CHAIN] = V::dot8(sum[t][s][CHAIN], w, four(q[t] + at));
  }
}

// Adds products of eight inputs with 4-bit codes, four in the low halves and four in the high ones.
template <class V, int FIRST, int TB, int COUNT, int CHAINS>
[[gnu::always_inline]] inline void step_of_4(const uint8_t* codes, const int8_t* const (&q)[TB], size_t at,
                                             typename V::I (&sum)[TB][COUNT][CHAINS]) {
#pragma GCC unroll 4
  for (int s = 0; s < COUNT; ++s) {
    const auto both = V::load4(codes + size_t(4 * int(kRows) / V::kSlices * (FIRST + s)));
    const auto low = V::low(both), high = V::high(both);
#pragma GCC unroll 16
    for (int t = 0; t < TB; ++t) {
      sum[t][s][0] = V::dot4(sum[t][s][0], low, four(q[t] + at));
      sum[t][s][CHAINS - 1] = V::dot4(sum[t][s][CHAINS - 1], high, four(q[t] + at + 4));
    }
  }
}

// A panel of codes: for each block float scale[16], then for each four inputs (eight at 4 bits: four in the low halves,
// four in the high ones) the 16 rows' codes.
template <class V, int BITS, int TB, int FIRST, int COUNT>
inline void code_slices(const uint8_t* weights, const QuantRows& x, size_t first, float* out, size_t stride) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kWidth = int(kRows) / V::kSlices, kChains = TB == 1 ? 2 : 1;
  constexpr int32_t kZero = BITS == 4 ? 8 : V::kZero8;
  const size_t steps = x.block / (BITS == 8 ? 4 : 8), width = x.blocks * x.block;
  F acc[TB][COUNT];
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < COUNT; ++s) acc[t][s] = V::set1(0.0f);
  for (size_t b = 0; b < x.blocks; ++b) {
    const float* scales = reinterpret_cast<const float*>(weights);
    const uint8_t* codes = weights + 4 * kRows;
    const int8_t* q[TB];
    I sum[TB][COUNT][kChains];
#pragma GCC unroll 16
    for (int t = 0; t < TB; ++t) {
      const size_t row = first + size_t(t);
      q[t] = x.q + row * width + b * x.block;
      const I start = V::ints(-kZero * x.sum[row * x.blocks + b]);
#pragma GCC unroll 4
      for (int s = 0; s < COUNT; ++s) {
        sum[t][s][0] = start;
        if (kChains > 1) sum[t][s][kChains - 1] = V::ints(0);
      }
    }
    if constexpr (BITS == 8) {
      for (size_t step = 0; step < steps; step += 2) {
        V::prefetch(codes + 4 * kRows * step);
        V::prefetch(codes + 4 * kRows * step + 64);
        step_of_8<V, FIRST, 0>(codes + 4 * kRows * step, q, 4 * step, sum);
        step_of_8<V, FIRST, kChains - 1>(codes + 4 * kRows * (step + 1), q, 4 * (step + 1), sum);
      }
    } else {
      for (size_t step = 0; step < steps; ++step) {
        V::prefetch(codes + 4 * kRows * step);
        step_of_4<V, FIRST>(codes + 4 * kRows * step, q, 8 * step, sum);
      }
    }
#pragma GCC unroll 4
    for (int s = 0; s < COUNT; ++s) {
      const F scale = V::load(scales + kWidth * (FIRST + s));
#pragma GCC unroll 16
      for (int t = 0; t < TB; ++t) {
        const I whole = kChains > 1 ? V::add_ints(sum[t][s][0], sum[t][s][kChains - 1]) : sum[t][s][0];
        const F factor = V::mul(scale, V::set1(x.scale[(first + size_t(t)) * x.blocks + b]));
        acc[t][s] = V::fma(factor, V::to_float(whole), acc[t][s]);
      }
    }
    weights = codes + 4 * kRows * steps;
  }
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < COUNT; ++s) V::store(out + size_t(t) * stride + size_t(kWidth * (FIRST + s)), acc[t][s]);
}

// One row takes all slices together; with more, an instruction set with few registers takes them one after the other.
template <class V, int BITS, int TB, int FIRST = 0>
inline void code_block(const uint8_t* weights, const QuantRows& x, size_t first, float* out, size_t stride) {
  constexpr int kCount = TB == 1 ? V::kSlices : V::kSlicesTogether;
  if constexpr (V::kPairs && TB > 1)
    code_pairs<V, BITS, TB, FIRST, kCount>(weights, x, first, out, stride);
  else
    code_slices<V, BITS, TB, FIRST, kCount>(weights, x, first, out, stride);
  if constexpr (FIRST + kCount < V::kSlices) code_block<V, BITS, TB, FIRST + kCount>(weights, x, first, out, stride);
}

template <class V, int BITS>
void codes(const uint8_t* weights, const QuantRows& x, size_t first, size_t count, float* out, size_t stride) {
  for_row_blocks<V::kCodeRows>(count, [&](auto tb, size_t at) {
    code_block<V, BITS, decltype(tb)::value>(weights, x, first + at, out + at * stride, stride);
  });
}

// acc[r] = acc[r] * factor[r] + sum over keys, in order, of weights[r][key] * values[key].
template <class V>
void weigh(const float* values, size_t stride, size_t keys, const float* weights, const float* factor, size_t rows,
           size_t dim, float* acc) {
  using F = typename V::F;
  constexpr int kSlices = V::kSlices, kWidth = int(kRows) / kSlices;
  size_t c = 0;
  for (; c + kRows <= dim; c += kRows)
    for_row_blocks<V::kFloatRows>(rows, [&](auto tb, size_t first) {
      constexpr int TB = decltype(tb)::value;
      const float* p = weights + first * kTile;
      float* out = acc + first * dim + c;
      F sum[TB][kSlices];
#pragma GCC unroll 16
      for (int t = 0; t < TB; ++t)
#pragma GCC unroll 4
        for (int s = 0; s < kSlices; ++s)
          sum[t][s] = V::mul(V::load(out + size_t(t) * dim + size_t(kWidth * s)), V::set1(factor[first + size_t(t)]));
      for (size_t key = 0; key < keys; ++key)
#pragma GCC unroll 4
        for (int s = 0; s < kSlices; ++s) {
          const F v = V::load(values + key * stride + c + size_t(kWidth * s));
#pragma GCC unroll 16
          for (int t = 0; t < TB; ++t) sum[t][s] = V::fma(v, V::set1(p[size_t(t) * kTile + key]), sum[t][s]);
        }
#pragma GCC unroll 16
      for (int t = 0; t < TB; ++t)
#pragma GCC unroll 4
        for (int s = 0; s < kSlices; ++s) V::store(out + size_t(t) * dim + size_t(kWidth * s), sum[t][s]);
    });
  for (size_t r = 0; r < rows && c < dim; ++r)
    for (size_t i = c; i < dim; ++i) {
      float sum = acc[r * dim + i] * factor[r];
      for (size_t key = 0; key < keys; ++key)
        sum = __builtin_fmaf(values[key * stride + i], weights[r * kTile + key], sum);
      acc[r * dim + i] = sum;
    }
}

}  // namespace
}  // namespace hobbit

#include "dense_loops.hpp"

// Expands to the table of this translation unit.
#define HOBBIT_DENSE_TABLE(symbol, V, name) \
  const DenseTable symbol = {name, V::kZero8, floats<V>, codes<V, 8>, codes<V, 4>, quantize_row, finish, norm<V>, \
                             dot<V>, add, scale, clip, gate, rotate, transpose<V>, soften, weigh<V>, convolve, fade, recur<V>}
