// Loops over single rows, and a recurrence's state, once over a vector type V. Included by dense_impl.hpp.
#pragma once
#include <cmath>
#include <cstring>

#include "dense.hpp"

namespace hobbit {
namespace {

// Columns c .. c + 16 * WIDE - 1 of a state.
template <class V, int WIDE>
inline void recur_columns(const float* from, float* to, size_t keys, size_t values, const Step& step, size_t c,
                          float* out) {
  using F = typename V::F;
  constexpr int kWidth = int(kRows) / V::kSlices, kCount = WIDE * V::kSlices;
  F change[kCount], sum[kCount];
#pragma GCC unroll 16
  for (int s = 0; s < kCount; ++s) sum[s] = V::set1(0.0f);
  if (step.corrects)
    for (size_t k = 0; k < keys; ++k) {
      const F kept = V::set1(step.kept[k * step.kept_step]), key = V::set1(step.key[k]);
#pragma GCC unroll 16
      for (int s = 0; s < kCount; ++s)
        sum[s] = V::fma(V::mul(V::load(from + k * values + c + size_t(kWidth * s)), kept), key, sum[s]);
    }
#pragma GCC unroll 16
  for (int s = 0; s < kCount; ++s) {
    const F wanted = V::fma(sum[s], V::set1(-1.0f), V::load(step.value + c + size_t(kWidth * s)));
    change[s] = V::mul(wanted, V::set1(step.rate));
    sum[s] = V::set1(0.0f);
  }
  for (size_t k = 0; k < keys; ++k) {
    const F kept = V::set1(step.kept[k * step.kept_step]), key = V::set1(step.key[k]), query = V::set1(step.query[k]);
#pragma GCC unroll 16
    for (int s = 0; s < kCount; ++s) {
      const size_t at = k * values + c + size_t(kWidth * s);
      const F next = V::fma(key, change[s], V::mul(V::load(from + at), kept));
      V::store(to + at, next);
      sum[s] = V::fma(next, query, sum[s]);
    }
  }
#pragma GCC unroll 16
  for (int s = 0; s < kCount; ++s) V::store(out + c + size_t(kWidth * s), sum[s]);
}

template <class V>
void recur(const float* from, float* to, size_t keys, size_t values, const Step& step, float* out) {
  constexpr int kWide = 4;
  size_t c = 0;
  for (; c + kWide * kRows <= values; c += kWide * kRows) recur_columns<V, kWide>(from, to, keys, values, step, c, out);
  for (; c + kRows <= values; c += kRows) recur_columns<V, 1>(from, to, keys, values, step, c, out);
  for (; c < values; ++c) {
    float recalled = 0.0f, sum = 0.0f;
    for (size_t k = 0; k < keys && step.corrects; ++k)
      recalled = __builtin_fmaf(from[k * values + c] * step.kept[k * step.kept_step], step.key[k], recalled);
    const float change = __builtin_fmaf(recalled, -1.0f, step.value[c]) * step.rate;
    for (size_t k = 0; k < keys; ++k) {
      const float next = __builtin_fmaf(step.key[k], change, from[k * values + c] * step.kept[k * step.kept_step]);
      to[k * values + c] = next;
      sum = __builtin_fmaf(next, step.query[k], sum);
    }
    out[c] = sum;
  }
}

template <class V> void transpose(const float* const* rows, size_t dim, float* panel) {
  size_t c = 0;
  for (; c + 4 <= dim; c += 4) V::transpose4(rows, c, panel + kRows * c);
  for (; c < dim; ++c)
    for (size_t r = 0; r < kRows; ++r) panel[kRows * c + r] = rows[r][c];
}

// Sums have 16 lanes, added as a tree.
inline float tree(float* lanes) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

template <class V, class Op> inline float sum_of(const float* x, size_t n, Op op) {
  using F = typename V::F;
  constexpr int kWidth = int(kRows) / V::kSlices;
  F acc[V::kSlices];
  for (int s = 0; s < V::kSlices; ++s) acc[s] = V::set1(0.0f);
  size_t i = 0;
  for (; i + kRows <= n; i += kRows)
    for (int s = 0; s < V::kSlices; ++s) acc[s] = op(V::load(x + i + size_t(kWidth * s)), acc[s]);
  alignas(64) float lanes[kRows], rest[kRows] = {};
  if (i < n) {
    std::memcpy(rest, x + i, (n - i) * sizeof(float));
    for (int s = 0; s < V::kSlices; ++s) acc[s] = op(V::load(rest + kWidth * s), acc[s]);
  }
  for (int s = 0; s < V::kSlices; ++s) V::store(lanes + kWidth * s, acc[s]);
  return tree(lanes);
}

template <class V> float dot(const float* a, const float* b, size_t n) {
  using F = typename V::F;
  constexpr int kWidth = int(kRows) / V::kSlices;
  alignas(64) float lanes[kRows], rest[2][kRows] = {};
  F acc[V::kSlices];
  for (int s = 0; s < V::kSlices; ++s) acc[s] = V::set1(0.0f);
  for (; n >= kRows; n -= kRows, a += kRows, b += kRows)
    for (int s = 0; s < V::kSlices; ++s) acc[s] = V::fma(V::load(a + kWidth * s), V::load(b + kWidth * s), acc[s]);
  std::memcpy(rest[0], a, n * sizeof(float));
  std::memcpy(rest[1], b, n * sizeof(float));
  for (int s = 0; s < V::kSlices; ++s)
    V::store(lanes + kWidth * s, V::fma(V::load(rest[0] + kWidth * s), V::load(rest[1] + kWidth * s), acc[s]));
  return tree(lanes);
}

template <class V>
void norm(const float* x, size_t n, const float* gamma, const float* bias, float eps, bool centred, float* out) {
  using F = typename V::F;
  if (centred) {
    const float mean = sum_of<V>(x, n, [](F v, F acc) { return V::add(v, acc); }) / float(n);
    for (size_t i = 0; i < n; ++i) out[i] = x[i] - mean;
    x = out;
  }
  const float squares = sum_of<V>(x, n, [](F v, F acc) { return V::fma(v, v, acc); });
  const float scale = 1.0f / std::sqrt(squares / float(n) + eps);
  if (gamma == nullptr)
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * scale;
  else if (bias == nullptr)
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * scale * gamma[i];
  else
    for (size_t i = 0; i < n; ++i) out[i] = x[i] * scale * gamma[i] + bias[i];
}

}  // namespace
}  // namespace hobbit
