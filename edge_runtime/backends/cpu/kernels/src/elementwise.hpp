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
#define HOBBIT_KERNEL_TABLE(symbol, V, name, forms, encode) \
  const KernelTable symbol = {name, quantize, panel_any<V>, panel_bf16<V>, swiglu, &forms, combine, encode}
