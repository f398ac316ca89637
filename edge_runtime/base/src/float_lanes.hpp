// Float vectors of an instruction set, as loops over rows use them. A unit that includes this is compiled with the flags
// of one instruction set, and gets what they allow; all of it is in an unnamed namespace, as in float_math.hpp.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>

namespace hobbit {
namespace {

#if defined(__AVX512F__)
struct FloatLanes {
  using F = __m512;
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F f) { _mm512_storeu_ps(p, f); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
};
#elif defined(__AVX2__)
struct FloatLanes {
  using F = __m256;
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F f) { _mm256_storeu_ps(p, f); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
};
#elif defined(__aarch64__)
struct FloatLanes {
  using F = float32x4_t;
  static F set1(float x) { return vdupq_n_f32(x); }
  static F load(const float* p) { return vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p))); }
  static void store(float* p, F f) { vst1q_f32(p, f); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
};
#endif

}  // namespace
}  // namespace hobbit
