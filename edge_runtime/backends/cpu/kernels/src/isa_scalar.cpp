// Portable C++ at the baseline of the architecture; also what the SIMD units are checked against.
#include "elementwise.hpp"
#include "panel_impl.hpp"

namespace hobbit {
namespace {

struct Scalar {
  static constexpr int kSlices = 1, kSlicesTogether = 1, kTokenBlock = 2, kTokenBlockBf16 = 1;
  static constexpr bool kDotOnce = false, kPairs = false;
  struct F { float v[16]; };
  using Table = const uint8_t*;
  template <int TIER> struct Codes { uint8_t c[8][64]; };

  template <class Op> static F map(Op op) {
    F f;
    for (int i = 0; i < 16; ++i) f.v[i] = op(i);
    return f;
  }
  static F set1(float x) { return map([&](int) { return x; }); }
  static F load(const float* p) { F f; std::memcpy(f.v, p, 64); return f; }
  static void store(float* p, const F& f) { std::memcpy(p, f.v, 64); }
  static F load_u8(const uint8_t* p) { return map([&](int i) { return float(p[i]); }); }
  static F load_power(const uint8_t* p) { return map([&](int i) { return bits_float(int32_t(p[i]) << 23); }); }
  static F load_bf16(const uint16_t* p) { return map([&](int i) { return bits_float(int32_t(uint32_t(p[i]) << 16)); }); }
  static F mul(const F& a, const F& b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
  static F add(const F& a, const F& b) { return map([&](int i) { return a.v[i] + b.v[i]; }); }
  static F fma(const F& a, const F& b, const F& c) {
    return map([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  static Table load_table(const uint8_t* p) { return p; }
  static void prefetch(const uint8_t*) {}

  template <int TIER>
  static void unpack(Codes<TIER>& codes, const uint8_t* const* plane, size_t at, Table table) {
    for (int v = 0; v < 2; ++v)
      for (int f = 0; f < 4; ++f)
        for (int i = 0; i < 64; ++i) {
          int p[4] = {};
          for (int k = 0; k < TIER / 2; ++k) p[k] = (plane[k][at + size_t(64 * v + i)] >> (2 * f)) & 3;
          const int q = 4 * p[0] + p[1];
          const uint8_t* row = table + i / 4 * 4;
          codes.c[4 * v + f][i] = uint8_t(TIER <= 3 ? row[p[0]] : TIER == 4 ? q : TIER == 5 ? kFp4Codes[q] : 14 * q + 4 * p[2] + p[3]);
        }
  }
  template <int TIER> static F dot(const Codes<TIER>& codes, const ActGroup& x) {
    int32_t sum[16] = {};
    for (int i = 0; i < 8; ++i)
      for (int r = 0; r < 16; ++r)
        for (int j = 0; j < 4; ++j) sum[r] += int32_t(codes.c[i][4 * r + j]) * x.q[4 * i + j];
    return map([&](int r) { return float(sum[r]); });
  }
};

}  // namespace

HOBBIT_KERNEL_TABLE(kScalarKernels, Scalar, "scalar", kFormsBase, encode_panel_base);

}  // namespace hobbit
