// What the quantiser works with: HOBBIT_LANES rows at a time in float, 32-bit and pairs of 16-bit integers.
// Set HOBBIT_LANES first. Every operation gives the same bits on every instruction set.
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "layout.hpp"

namespace hobbit {
namespace {

constexpr int kLanes = HOBBIT_LANES;
typedef float VF __attribute__((vector_size(4 * HOBBIT_LANES)));
typedef int32_t VI __attribute__((vector_size(4 * HOBBIT_LANES)));
typedef uint16_t VH __attribute__((vector_size(4 * HOBBIT_LANES)));  // two consecutive inputs in each 32-bit lane

constexpr float kRound = 12582912.0f;  // adding and taking off rounds to nearest even

inline VF all(float x) { return VF{} + x; }
inline VF load(const float* p) { VF v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, VF v) { std::memcpy(p, &v, sizeof v); }
inline VF vmin(VF a, VF b) { return a < b ? a : b; }
inline VF vmax(VF a, VF b) { return a > b ? a : b; }
inline VF round_clamp(VF v, float top) { return (vmax(vmin(v, all(top)), all(0)) + kRound) - kRound; }
inline VF inverse(VF v, float numerator) { return v > 0 ? numerator / (v > 0 ? v : all(1)) : all(0); }
inline VF real(VI v) { return __builtin_convertvector(v, VF); }

struct Group {
  VF w[kGroup];
  VF sum, sum_sq, low, high;
};

inline void read_group(const float* tile, Group& g) {
  g.sum = g.sum_sq = g.low = all(0);
  g.high = all(-3.4e38f);
  for (size_t i = 0; i < kGroup; ++i) {
    const VF w = g.w[i] = load(tile + i * kPanelRows);
    g.sum += w;
    g.sum_sq += w * w;
    g.low = vmin(g.low, w);  // starts at 0: the stored minimum cannot be positive
    g.high = vmax(g.high, w);
  }
}

// sub_floor: a - b, at least 0. mul_high: the high half of a b. min_small: of values below 2^15.
// dot_pairs: products of values below 2^15, those of a 32-bit lane added.
#if defined(__AVX512BW__) && HOBBIT_LANES == 16
inline VH sub_floor(VH a, VH b) { return VH(_mm512_subs_epu16(__m512i(a), __m512i(b))); }
inline VH mul_high(VH a, VH b) { return VH(_mm512_mulhi_epu16(__m512i(a), __m512i(b))); }
inline VH min_small(VH a, VH b) { return VH(_mm512_min_epi16(__m512i(a), __m512i(b))); }
inline VI dot_pairs(VH a, VH b) { return VI(_mm512_madd_epi16(__m512i(a), __m512i(b))); }
inline VH shuffle(__m128i table, VH q) {
  return VH(_mm512_shuffle_epi8(_mm512_maskz_broadcast_i32x4(0xffff, table), __m512i(q)));
}
#elif defined(__AVX2__) && HOBBIT_LANES == 8
inline VH sub_floor(VH a, VH b) { return VH(_mm256_subs_epu16(__m256i(a), __m256i(b))); }
inline VH mul_high(VH a, VH b) { return VH(_mm256_mulhi_epu16(__m256i(a), __m256i(b))); }
inline VH min_small(VH a, VH b) { return VH(_mm256_min_epi16(__m256i(a), __m256i(b))); }
inline VI dot_pairs(VH a, VH b) { return VI(_mm256_madd_epi16(__m256i(a), __m256i(b))); }
inline VH shuffle(__m128i table, VH q) {
  return VH(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), __m256i(q)));
}
#elif defined(__SSE2__) && HOBBIT_LANES == 4
inline VH sub_floor(VH a, VH b) { return VH(_mm_subs_epu16(__m128i(a), __m128i(b))); }
inline VH mul_high(VH a, VH b) { return VH(_mm_mulhi_epu16(__m128i(a), __m128i(b))); }
inline VH min_small(VH a, VH b) { return VH(_mm_min_epi16(__m128i(a), __m128i(b))); }
inline VI dot_pairs(VH a, VH b) { return VI(_mm_madd_epi16(__m128i(a), __m128i(b))); }
#elif defined(__ARM_NEON) && HOBBIT_LANES == 4
inline uint32x4_t low_products(VH a, VH b) {
  return vmull_u16(vget_low_u16(uint16x8_t(a)), vget_low_u16(uint16x8_t(b)));
}
inline uint32x4_t high_products(VH a, VH b) { return vmull_high_u16(uint16x8_t(a), uint16x8_t(b)); }
inline VH sub_floor(VH a, VH b) { return VH(vqsubq_u16(uint16x8_t(a), uint16x8_t(b))); }
inline VH mul_high(VH a, VH b) {
  return VH(vuzp2q_u16(vreinterpretq_u16_u32(low_products(a, b)), vreinterpretq_u16_u32(high_products(a, b))));
}
inline VH min_small(VH a, VH b) { return VH(vminq_u16(uint16x8_t(a), uint16x8_t(b))); }
inline VI dot_pairs(VH a, VH b) { return VI(vpaddq_u32(low_products(a, b), high_products(a, b))); }
#else
typedef uint32_t VU __attribute__((vector_size(4 * HOBBIT_LANES)));
inline VH sub_floor(VH a, VH b) { return a > b ? a - b : VH{}; }
inline VH mul_high(VH a, VH b) {
  const VU even = (VU(a) & 0xffff) * (VU(b) & 0xffff) >> 16, odd = (VU(a) >> 16) * (VU(b) >> 16) & 0xffff0000;
  return VH(even | odd);
}
inline VH min_small(VH a, VH b) { return a < b ? a : b; }
inline VI dot_pairs(VH a, VH b) {
  return VI((VU(a) & 0xffff) * (VU(b) & 0xffff) + (VU(a) >> 16) * (VU(b) >> 16));
}
#endif

inline VI sum_pairs(VH v) { return dot_pairs(v, VH{} + 1); }

// Of a code q and the level 2 + 11/3 (q >> 2) its two-bit cell stands for, with the two-bit error weighing 3/77:
// mixed_code: 7 (q + 3/77 level) - 6/11; level_square: 21 (3/77 level^2 - 12/77). Both are integers.
#if defined(__AVX2__) && HOBBIT_LANES >= 8
inline VH mixed_code(VH q) {
  return shuffle(_mm_setr_epi8(0, 7, 14, 21, 29, 36, 43, 50, 58, 65, 72, 79, 87, 94, 101, 108), q);
}
inline VH level_square(VH q) {
  return shuffle(_mm_setr_epi8(0, 0, 0, 0, 23, 23, 23, 23, 68, 68, 68, 68, char(135), char(135), char(135), char(135)), q);
}
#else
inline VH mixed_code(VH q) { return q * 7 + (q >> 2); }
inline VH level_square(VH q) { return (q >> 2) * ((q >> 2) * 11 + 12); }
#endif

}  // namespace
}  // namespace hobbit
