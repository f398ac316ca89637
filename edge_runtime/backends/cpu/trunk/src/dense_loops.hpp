// Elementwise steps of the dense part as plain loops that the compiler vectorises per ISA. Included by dense_impl.hpp.
#pragma once
#include "dense_rows.hpp"

namespace hobbit {
namespace {

// Int8 codes of a row, as ONNX Runtime's MatMulNBits rounds activations: one scale for each block of the weights.
void quantize_row(const float* x, size_t inputs, const QuantRows& out, size_t row) {
  int8_t* q = out.q + row * out.blocks * out.block;
  for (size_t b = 0; b < out.blocks; ++b) {
    const size_t from = b * out.block, n = inputs - from < out.block ? inputs - from : out.block;
    int32_t top = 0;  // magnitudes order as integers, with inf and nan on top
    for (size_t i = 0; i < n; ++i) {
      const int32_t bits = float_bits(x[from + i]) & 0x7fffffff;
      top = bits > top ? bits : top;
    }
    const float peak = bits_float(top);
    // Below 1e-30 the inverse could overflow; such a block is zero for any practical purpose.
    const bool finite = top < 0x7f800000, used = finite && peak > 1e-30f;
    const float inverse = used ? 127.0f / peak : 0.0f;
    int32_t sum = 0;
    for (size_t i = 0; i < n; ++i) {
      const float v = used ? x[from + i] * inverse : 0.0f;
      const int32_t code = int32_t((v + kRound) - kRound);
      q[from + i] = int8_t(code);
      sum += code;
    }
    for (size_t i = n; i < out.block; ++i) q[from + i] = 0;
    // A non-finite input must show in the output instead of turning into plausible numbers.
    out.scale[row * out.blocks + b] = used ? peak / 127.0f : finite ? 0.0f : not_a_number();
    out.sum[row * out.blocks + b] = sum;
  }
}

inline float tanh_poly(float x) {  // 1 - 2 / (exp(2 |x|) + 1), its sign put back
  const float size = x < 0.0f ? -x : x;
  const float e = exp_poly(2.0f * (size < 40.0f ? size : 40.0f));
  const float t = 1.0f - 2.0f / (e + 1.0f);
  return x < 0.0f ? -t : t;
}

void finish(const float* product, size_t n, const Target& to, size_t row, size_t first) {
  float* out = to.out + row * to.stride + first;
  const float *bias = to.bias == nullptr ? nullptr : to.bias + first, factor = to.factor, cap = to.cap;
  if (bias == nullptr && factor == 1.0f && cap == 0.0f) {
    if (to.adds)
      for (size_t i = 0; i < n; ++i) out[i] += product[i];
    else
      std::memcpy(out, product, n * sizeof(float));
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    float v = product[i];
    if (bias != nullptr) v += bias[i];
    v *= factor;
    if (cap != 0.0f && v == v) v = tanh_poly(v / cap) * cap;  // a nan must not reach the integer conversion
    out[i] = to.adds ? out[i] + v : v;
  }
}

void add(float* into, const float* more, size_t n, float factor) {
  if (factor == 1.0f)
    for (size_t i = 0; i < n; ++i) into[i] += more[i];
  else
    for (size_t i = 0; i < n; ++i) into[i] += more[i] * factor;
}

void scale(float* x, size_t n, float factor) {
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

void clip(float* x, size_t n, float limit) {
  for (size_t i = 0; i < n; ++i) {
    const float v = x[i] > limit ? limit : x[i];
    x[i] = v < -limit ? -limit : v;
  }
}

void gate(float* x, const float* gate, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float g = gate[i], s = sigmoid_poly(g != g ? 0.0f : g);
    x[i] *= g != g ? g : s;
  }
}

void convolve(const float* const* rows, const float* taps, size_t kernel, size_t n, const float* bias, bool silu,
              float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = taps[i] * rows[0][i];
  for (size_t j = 1; j < kernel; ++j) {
    const float *row = rows[j], *tap = taps + j * n;
    for (size_t i = 0; i < n; ++i) out[i] = __builtin_fmaf(tap[i], row[i], out[i]);
  }
  if (bias != nullptr)
    for (size_t i = 0; i < n; ++i) out[i] += bias[i];
  if (!silu) return;
  for (size_t i = 0; i < n; ++i) {
    const float v = out[i], s = sigmoid_poly(v != v ? 0.0f : v);
    out[i] = v * s;
  }
}

void fade(float* x, const float* bias, const float* decay, size_t n, float* steps) {
  for (size_t i = 0; i < n; ++i) {
    const float v = x[i] + bias[i], step = softplus_poly(v != v ? 0.0f : v), e = decay[i] * step;
    const float kept = exp_poly(e != e ? 0.0f : e);
    x[i] = v != v ? v : e != e ? e : kept;
    if (steps != nullptr) steps[i] = v != v ? v : step;
  }
}

void rotate(float* head, const float* cos, const float* sin, size_t half, bool pairs) {
  if (pairs) {
    for (size_t i = 0; i < half; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cos[i] - b * sin[i];
      head[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }
  float* second = head + half;
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i], b = second[i];
    head[i] = a * cos[i] - b * sin[i];
    second[i] = b * cos[i] + a * sin[i];
  }
}

float soften(float* scores, size_t from, size_t to, float* top, float* total) {
  float seen = *top;
  for (size_t i = from; i < to; ++i) seen = scores[i] > seen ? scores[i] : seen;
  // nothing was seen before: what there is of it is zero
  const float factor = *total == 0.0f ? 0.0f : exp_poly(*top - seen);
  for (size_t i = 0; i < kTile; ++i) {
    const float d = scores[i] - seen;
    const float e = exp_poly(d != d ? 0.0f : d);
    const float p = d != d ? d : e;
    scores[i] = i >= from && i < to ? p : 0.0f;
  }
  alignas(64) float lanes[kRows];
  for (size_t i = 0; i < kRows; ++i) lanes[i] = scores[i] + scores[i + kRows];
  *total = *total * factor + tree(lanes);
  *top = seen;
  return factor;
}

}  // namespace
}  // namespace hobbit
