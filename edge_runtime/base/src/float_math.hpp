// Elementary functions as plain float arithmetic: the same bits on every instruction set and C library, and loops over
// them vectorise. Everything is in an unnamed namespace: units that include this are compiled with different flags.
#pragma once
#include <cstdint>
#include <cstring>

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
inline float not_a_number() { return bits_float(0x7fc00000); }

// exp(x) by 2^n * p(r), |r| <= ln(2)/2, degree 6 fit; relative error below 2e-7. Clamped to exp(-87) and exp(88); a nan
// must not come here.
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

// 1 / (1 + exp(-x)); a nan must not come here.
inline float sigmoid_poly(float x) { return 1.0f / (1.0f + exp_poly(-x)); }

// log(1 + y) for 0 <= y <= 1 as 2 atanh(t), t = y / (2 + y) <= 1/3; relative error below 3e-7 down to the smallest y.
inline float log1p_poly(float y) {
  const float t = y / (2.0f + y), s = t * t;
  float p = 1.0f / 15;
  p = __builtin_fmaf(p, s, 1.0f / 13);
  p = __builtin_fmaf(p, s, 1.0f / 11);
  p = __builtin_fmaf(p, s, 1.0f / 9);
  p = __builtin_fmaf(p, s, 1.0f / 7);
  p = __builtin_fmaf(p, s, 1.0f / 5);
  p = __builtin_fmaf(p, s, 1.0f / 3);
  p = __builtin_fmaf(p, s, 1.0f);
  return 2.0f * t * p;
}

// log(1 + exp(x)), which is exp(x) where x is far below 0; a nan must not come here.
inline float softplus_poly(float x) { return (x > 0.0f ? x : 0.0f) + log1p_poly(exp_poly(x > 0.0f ? -x : x)); }

}  // namespace
}  // namespace hobbit
