// AVX-512 with VNNI: one register holds 4 inputs of all 16 rows, one vpdpbusd consumes it.
#include "dense_impl.hpp"
#include "float_lanes.hpp"

namespace hobbit {
namespace {

struct Avx512 : FloatLanes {
  static constexpr int kSlices = 1, kSlicesTogether = 1, kFloatRows = 8, kTwoPanels = 8, kCodeRows = 8, kZero8 = 128;
  static constexpr bool kPairs = false;
  using I = __m512i;

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p) + 2048, _MM_HINT_T0); }

  static I ints(int32_t x) { return _mm512_set1_epi32(x); }
  static I add_ints(I a, I b) { return _mm512_add_epi32(a, b); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static I load8(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static I load4(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static I low(I both) { return _mm512_and_si512(both, _mm512_set1_epi8(15)); }
  static I high(I both) { return _mm512_and_si512(_mm512_srli_epi16(both, 4), _mm512_set1_epi8(15)); }
  static I dot8(I sum, I w, int32_t four) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four)); }
  static I dot4(I sum, I w, int32_t four) { return dot8(sum, w, four); }

  // Lane j of part i has row 4 j + i; transposing the lanes puts the rows of a column side by side.
  static void transpose4(const float* const* rows, size_t c, float* out) {
    const auto part = [&](int i) {
      __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(rows[i] + c));
      v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 4] + c), 1);
      v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 8] + c), 2);
      return _mm512_insertf32x4(v, _mm_loadu_ps(rows[i + 12] + c), 3);
    };
    const __m512 a = part(0), b = part(1), d = part(2), e = part(3);
    const __m512 ab0 = _mm512_unpacklo_ps(a, b), ab1 = _mm512_unpackhi_ps(a, b);
    const __m512 de0 = _mm512_unpacklo_ps(d, e), de1 = _mm512_unpackhi_ps(d, e);
    store(out, _mm512_shuffle_ps(ab0, de0, 0x44));
    store(out + 16, _mm512_shuffle_ps(ab0, de0, 0xEE));
    store(out + 32, _mm512_shuffle_ps(ab1, de1, 0x44));
    store(out + 48, _mm512_shuffle_ps(ab1, de1, 0xEE));
  }
};

}  // namespace

HOBBIT_DENSE_TABLE(kDenseAvx512, Avx512, "avx512vnni");

}  // namespace hobbit
