// Portable C++ at the baseline of the architecture; also what the SIMD units are checked against.
#include "dense_impl.hpp"

namespace hobbit {
namespace {

struct Scalar {
  static constexpr int kSlices = 1, kSlicesTogether = 1, kFloatRows = 2, kTwoPanels = 0, kCodeRows = 2, kZero8 = 0;
  static constexpr bool kPairs = false;
  struct F { float v[16]; };
  struct I { int32_t v[16]; };
  struct Codes { int8_t c[64]; };

  template <class Op> static F map(Op op) {
    F f;
    for (int i = 0; i < 16; ++i) f.v[i] = op(i);
    return f;
  }
  static F set1(float x) { return map([&](int) { return x; }); }
  static F load(const float* p) { F f; std::memcpy(f.v, p, 64); return f; }
  static void store(float* p, const F& f) { std::memcpy(p, f.v, 64); }
  static F mul(const F& a, const F& b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
  static F add(const F& a, const F& b) { return map([&](int i) { return a.v[i] + b.v[i]; }); }
  static F fma(const F& a, const F& b, const F& c) {
    return map([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  static void prefetch(const void*) {}

  static I ints(int32_t x) {
    I out;
    for (int32_t& v : out.v) v = x;
    return out;
  }
  static I add_ints(const I& a, const I& b) {
    I out;
    for (int i = 0; i < 16; ++i) out.v[i] = a.v[i] + b.v[i];
    return out;
  }
  static F to_float(const I& x) { return map([&](int i) { return float(x.v[i]); }); }
  static Codes load8(const uint8_t* p) { Codes c; std::memcpy(c.c, p, 64); return c; }
  static Codes load4(const uint8_t* p) { return load8(p); }
  static Codes low(const Codes& both) {
    Codes out;
    for (int i = 0; i < 64; ++i) out.c[i] = int8_t(uint8_t(both.c[i]) & 15);
    return out;
  }
  static Codes high(const Codes& both) {
    Codes out;
    for (int i = 0; i < 64; ++i) out.c[i] = int8_t(uint8_t(both.c[i]) >> 4);
    return out;
  }
  static I dot8(I sum, const Codes& w, int32_t four) {
    int8_t q[4];
    std::memcpy(q, &four, 4);
    for (int r = 0; r < 16; ++r)
      for (int j = 0; j < 4; ++j) sum.v[r] += int32_t(w.c[4 * r + j]) * q[j];
    return sum;
  }
  static I dot4(const I& sum, const Codes& w, int32_t four) { return dot8(sum, w, four); }
  static void transpose4(const float* const* rows, size_t c, float* out) {
    for (size_t i = 0; i < 4; ++i)
      for (size_t r = 0; r < 16; ++r) out[16 * i + r] = rows[r][c + i];
  }
};

}  // namespace

HOBBIT_DENSE_TABLE(kDenseScalar, Scalar, "scalar");

}  // namespace hobbit
