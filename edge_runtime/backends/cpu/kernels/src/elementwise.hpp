// Elementwise steps as plain loops that the compiler vectorises per ISA. Included like panel_impl.hpp.
#pragma once
#include <cstring>

#include "isa.hpp"

namespace hobbit {
namespace {

// Adding and taking off 1.5 * 2^23 rounds to nearest even for |v| < 2^22, on every ISA alike.
constexpr float kRound = 12582912.0f;

inline int32_t float_bits(float v) {
  int32_t i;
  std::memcpy(&i, &v, 4);
  return i;
}
inline float bits_float(int32_t i) {
  float v;
  std::memcpy(&v, &i, 4);
  return v;
}

void quantize(const float* x, size_t groups, ActGroup* out) {
  for (size_t g = 0; g < groups; ++g, x += 32, ++out) {
    int32_t top = 0;  // magnitudes order as integers, with inf and nan on top
    for (int i = 0; i < 32; ++i) {
      const int32_t bits = float_bits(x[i]) & 0x7fffffff;
      top = bits > top ? bits : top;
    }
    const float peak = bits_float(top);
    // Below 1e-30 the inverse could overflow; such a group is zero for any practical purpose.
    const bool finite = top < 0x7f800000, used = finite && peak > 1e-30f;
    const float inverse = used ? 127.0f / peak : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < 32; ++i) {
      const float v = used ? x[i] * inverse : 0.0f;
      const int32_t q = int32_t((v + kRound) - kRound);
      out->q[i] = int8_t(q);
      sum += q;
    }
    out->sum = sum;
    out->unused = 0;
    // A non-finite input must show in the output instead of turning into plausible numbers.
    out->scale = used ? peak / 127.0f : finite ? 0.0f : bits_float(0x7fc00000);
    out->scale_sum = out->scale * float(sum);
  }
}

// exp(x) by 2^n * p(r), |r| <= ln(2)/2, degree 6 fit; relative error below 2e-7.
inline float exp_poly(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = (x * 1.44269504f + kRound) - kRound;
  float r = __builtin_fmaf(n, -0.693145752f, x);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.0f / 720;
  p = __builtin_fmaf(p, r, 1.0f / 120);
  p = __builtin_fmaf(p, r, 1.0f / 24);
  p = __builtin_fmaf(p, r, 1.0f / 6);
  p = __builtin_fmaf(p, r, 0.5f);
  p = __builtin_fmaf(p, r, 1.0f);
  p = __builtin_fmaf(p, r, 1.0f);
  return p * bits_float((int32_t(n) + 127) << 23);
}

void swiglu(const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float e = exp_poly(g != g ? 0.0f : -g);  // a nan must not reach the integer conversion
    out[i] = g / (1.0f + e) * up[i];
  }
}

// Softmax over E logits, the K greatest (equal ones by number), their probabilities in that order, divided by their
// sum if `norm`. A row with a value that is not finite gets weights that are no numbers, so that it shows.
void route(const float* logits, size_t experts, size_t top_k, bool norm, int32_t* ids, float* weights) {
  size_t found = 0;
  bool finite = true;
  for (size_t e = 0; e < experts; ++e) {
    const float v = logits[e];
    finite &= (float_bits(v) & 0x7fffffff) < 0x7f800000;
    if (found == top_k && !(v > weights[top_k - 1])) continue;
    size_t at = found < top_k ? found++ : top_k - 1;
    for (; at > 0 && v > weights[at - 1]; --at) ids[at] = ids[at - 1], weights[at] = weights[at - 1];
    ids[at] = int32_t(e), weights[at] = v;
  }
  if (!finite) {
    for (size_t k = 0; k < top_k; ++k) weights[k] = bits_float(0x7fc00000);
    return;
  }
  const float top = weights[0];
  float total = 0.0f;
  if (!norm)
    for (size_t e = 0; e < experts; ++e) total += exp_poly(logits[e] - top);
  for (size_t k = 0; k < top_k; ++k) {
    weights[k] = exp_poly(weights[k] - top);
    if (norm) total += weights[k];
  }
  for (size_t k = 0; k < top_k; ++k) weights[k] /= total;
}

void combine(const float* y, const float* weights, size_t top_k, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = 0.0f;
  for (size_t k = 0; k < top_k; ++k) {
    const float w = weights[k];
    if (w == 0.0f) continue;
    const float* row = y + k * n;
    for (size_t i = 0; i < n; ++i) out[i] = __builtin_fmaf(w, row[i], out[i]);
  }
}

}  // namespace
}  // namespace hobbit

// Expands to the table of this translation unit.
#define HOBBIT_KERNEL_TABLE(symbol, V, name, encode) \
  const KernelTable symbol = {name, quantize, panel_any<V>, panel_bf16<V>, swiglu, combine, route, encode}
