// What experts compute between their matrices, as plain loops that the compiler vectorises per ISA. In units of their own,
// so that the panel loops beside them are compiled as if there were one form alone. Included like panel_impl.hpp.
#pragma once
#include "float_math.hpp"
#include "form.hpp"

namespace hobbit {
namespace {

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

}  // namespace
}  // namespace hobbit

// Expands to the table of this translation unit.
#define HOBBIT_FORM_TABLE(symbol) \
  namespace hobbit { \
  const FormTable symbol = {{gated<Activation::silu>, gated<Activation::gelu_tanh>, gated<Activation::relu2>}, \
                            {ungated<Activation::silu>, ungated<Activation::gelu_tanh>, ungated<Activation::relu2>}}; \
  }
