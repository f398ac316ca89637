// AVX2 with FMA: two slices of 8 rows. vpmaddubsw adds pairs into 16 bits: |w| <= 128 and |q| <= 127 give at most 32512,
// which fits, so 8-bit weights are taken as sizes and their signs go to the activations.
#include "dense_impl.hpp"
#include "float_lanes.hpp"

namespace hobbit {
namespace {

struct Avx2 : FloatLanes {
  static constexpr int kSlices = 2, kSlicesTogether = 1, kFloatRows = 4, kTwoPanels = 1, kCodeRows = 4, kZero8 = 0;
  static constexpr bool kPairs = false;
  using I = __m256i;
  struct Codes { __m256i weight, size; };

  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p) + 2048, _MM_HINT_T0); }

  static I ints(int32_t x) { return _mm256_set1_epi32(x); }
  static I add_ints(I a, I b) { return _mm256_add_epi32(a, b); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static I load4(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Codes load8(const uint8_t* p) {
    const __m256i w = load4(p);
    return {w, _mm256_abs_epi8(w)};
  }
  static I low(I both) { return _mm256_and_si256(both, _mm256_set1_epi8(15)); }
  static I high(I both) { return _mm256_and_si256(_mm256_srli_epi16(both, 4), _mm256_set1_epi8(15)); }
  static I pairs(I sum, I products) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
  }
  static I dot8(I sum, const Codes& w, int32_t four) {
    return pairs(sum, _mm256_maddubs_epi16(w.size, _mm256_sign_epi8(_mm256_set1_epi32(four), w.weight)));
  }
  static I dot4(I sum, I w, int32_t four) { return pairs(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(four))); }

  static void transpose4(const float* const* rows, size_t c, float* out) {
    for (int half = 0; half < 2; ++half, rows += 8, out += 8) {
      const auto part = [&](int i) {
        return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i] + c)), _mm_loadu_ps(rows[i + 4] + c), 1);
      };
      const __m256 a = part(0), b = part(1), d = part(2), e = part(3);
      const __m256 ab0 = _mm256_unpacklo_ps(a, b), ab1 = _mm256_unpackhi_ps(a, b);
      const __m256 de0 = _mm256_unpacklo_ps(d, e), de1 = _mm256_unpackhi_ps(d, e);
      store(out, _mm256_shuffle_ps(ab0, de0, 0x44));
      store(out + 16, _mm256_shuffle_ps(ab0, de0, 0xEE));
      store(out + 32, _mm256_shuffle_ps(ab1, de1, 0x44));
      store(out + 48, _mm256_shuffle_ps(ab1, de1, 0xEE));
    }
  }
};

}  // namespace

HOBBIT_DENSE_TABLE(kDenseAvx2, Avx2, "avx2");

}  // namespace hobbit
