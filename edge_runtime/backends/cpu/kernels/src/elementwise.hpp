// Elementwise steps as plain loops that the compiler vectorises per ISA. Included like panel_impl.hpp.
#pragma once
#include "float_math.hpp"
#include "isa.hpp"

namespace hobbit {
namespace {

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
    out->scale = used ? peak / 127.0f : finite ? 0.0f : not_a_number();
    out->scale_sum = out->scale * float(sum);
  }
}

void swiglu(const ExpertForm&, const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float e = exp_poly(g != g ? 0.0f : -g);  // a nan must not reach the integer conversion
    out[i] = g / (1.0f + e) * up[i];
  }
}

// 2 sqrt(2 / pi), and that times 0.044715: gelu_tanh(x) = x / (1 + exp(-x (a + b x^2))).
constexpr float kGeluA = 1.5957691216057308f, kGeluB = 0.071354816272600247f;

// A nan stays a nan in each of them, and does not reach the integer conversion of `exp_poly`.
template <Activation KIND> inline float activate(float x, float alpha) {
  if constexpr (KIND == Activation::relu2) {
    const float r = x < 0.0f ? 0.0f : x;
    return r * r;
  } else {
    const float s = KIND == Activation::silu ? alpha * x : x * __builtin_fmaf(kGeluB, x * x, kGeluA);
    return x / (1.0f + exp_poly(s != s ? 0.0f : -s));
  }
}

template <Activation KIND>
void gated(const ExpertForm& form, const float* gate, const float* up, size_t n, float* out) {
  const float limit = form.limit, alpha = form.alpha, offset = form.up_offset;
  for (size_t i = 0; i < n; ++i) {
    const float g = gate[i] > limit ? limit : gate[i], below = up[i] > limit ? limit : up[i];
    const float u = below < -limit ? -limit : below;
    out[i] = activate<KIND>(g, alpha) * (u + offset);
  }
}

template <Activation KIND>
void ungated(const ExpertForm& form, const float*, const float* up, size_t n, float* out) {
  const float alpha = form.alpha;
  for (size_t i = 0; i < n; ++i) out[i] = activate<KIND>(up[i], alpha);
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
  const KernelTable symbol = {name, quantize, panel_any<V>, panel_bf16<V>, swiglu, \
    {gated<Activation::silu>, gated<Activation::gelu_tanh>, gated<Activation::relu2>}, \
    {ungated<Activation::silu>, ungated<Activation::gelu_tanh>, ungated<Activation::relu2>}, combine, encode}
