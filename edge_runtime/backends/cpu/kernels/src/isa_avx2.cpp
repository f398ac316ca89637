// AVX2 with FMA: two slices of 8 rows. vpmaddubsw adds pairs into 16 bits and would saturate on
// 8-bit codes, so 14 q + r is summed as q and r apart (8 * 2 * 15 * 127 = 30480 fits).
#include "elementwise.hpp"
#include "float_lanes.hpp"
#include "panel_impl.hpp"

namespace hobbit {
namespace {

struct Avx2 : FloatLanes {
  static constexpr int kSlices = 2, kSlicesTogether = 1, kTokenBlock = 8, kTokenBlockBf16 = 2;
  static constexpr bool kDotOnce = true, kPairs = false;
  using Table = __m256i;  // a shuffle looks up within 128 bits: the four entries of each of four rows
  template <int TIER> struct Codes { __m256i q[8], r[TIER >= 6 ? 8 : 1]; };

  static F load_u8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static F load_power(const uint8_t* p) {  // 2^(p - 127), 0 for 0
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 23));
  }
  static F load_bf16(const uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  static void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + 2112), _MM_HINT_T0);
  }

  static Table load_table(const uint8_t* p) { return plane_load(p); }
  static __m256i look_up(Table table, __m256i codes) {  // codes: bits 4 to 6 are ignored, 2, 3 and 7 are 0
    const __m256i rows = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C));
    return _mm256_shuffle_epi8(table, _mm256_or_si256(codes, rows));
  }
  static __m256i nibble(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
  static __m256i floats(__m256i codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kFp4Codes));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes);
  }
  static __m256i plane_load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static __m256i select(__m256i hi, __m256i lo) {
    const __m256i mask = _mm256_set1_epi8(int8_t(0xCC));
    return _mm256_or_si256(_mm256_and_si256(mask, hi), _mm256_andnot_si256(mask, lo));
  }
  static void join(__m256i hi, __m256i lo, __m256i out[4]) {
    const __m256i even = select(_mm256_slli_epi16(hi, 2), lo), odd = select(hi, _mm256_srli_epi16(lo, 2));
    out[0] = nibble(even);
    out[1] = nibble(odd);
    out[2] = nibble(_mm256_srli_epi16(even, 4));
    out[3] = nibble(_mm256_srli_epi16(odd, 4));
  }
  template <int TIER>
  [[gnu::always_inline]] static void unpack(Codes<TIER>& codes, const uint8_t* const* plane, size_t at, Table table) {
    for (int v = 0; v < 2; ++v) {
      const size_t from = at + size_t(64 * v);
      __m256i* out = codes.q + 4 * v;
      const __m256i p0 = plane_load(plane[0] + from);
      if constexpr (TIER <= 3) {
        const __m256i mask = _mm256_set1_epi8(0x33), even = _mm256_and_si256(p0, mask);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(p0, 2), mask);
        out[0] = look_up(table, even);
        out[1] = look_up(table, odd);
        out[2] = look_up(table, _mm256_srli_epi16(even, 4));
        out[3] = look_up(table, _mm256_srli_epi16(odd, 4));
        continue;
      }
      join(p0, plane_load(plane[1] + from), out);
      if constexpr (TIER == 5)
        for (int f = 0; f < 4; ++f) out[f] = floats(out[f]);
      if constexpr (TIER >= 6)
        join(plane_load(plane[2] + from), TIER == 8 ? plane_load(plane[3] + from) : _mm256_setzero_si256(),
             codes.r + 4 * v);
    }
  }
  static __m256i inputs(const int8_t* q, int i) {
    int32_t four;
    std::memcpy(&four, q + 4 * i, 4);
    return _mm256_set1_epi32(four);
  }
  // The same as unpack and dot for a single token: no code outlives its product, so that all stays in registers.
  template <int TIER>
  [[gnu::always_inline]] static F dot_once(const uint8_t* const* plane, size_t at, Table table, const ActGroup& x) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t* in = x.q;
    asm("" : "+r"(in));  // else the broadcasts are shared by the slices, on the stack
    if constexpr (TIER <= 3) {
      const __m256i mask = _mm256_set1_epi8(0x33);
      __m256i total[2];
      for (int v = 0; v < 2; ++v) {
        const __m256i p0 = plane_load(plane[0] + at + size_t(64 * v));
        const __m256i even = _mm256_and_si256(p0, mask), odd = _mm256_and_si256(_mm256_srli_epi16(p0, 2), mask);
        const auto product = [&](__m256i codes, int i) {
          return _mm256_madd_epi16(_mm256_maddubs_epi16(look_up(table, codes), inputs(in, 4 * v + i)), ones);
        };
        total[v] = product(even, 0);
        total[v] = _mm256_add_epi32(total[v], product(odd, 1));
        total[v] = _mm256_add_epi32(total[v], product(_mm256_srli_epi16(even, 4), 2));
        total[v] = _mm256_add_epi32(total[v], product(_mm256_srli_epi16(odd, 4), 3));
      }
      return _mm256_cvtepi32_ps(_mm256_add_epi32(total[0], total[1]));
    }
    const auto sum16 = [&](__m256i hi, __m256i lo, int v, __m256i sum) {
      __m256i codes[4];
      join(hi, lo, codes);
      for (int f = 0; f < 4; ++f) {
        if constexpr (TIER == 5) codes[f] = floats(codes[f]);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes[f], inputs(in, 4 * v + f)));
      }
      return sum;
    };
    __m256i q16 = _mm256_setzero_si256(), r16 = q16;
    for (int v = 0; v < 2; ++v) {
      const size_t from = at + size_t(64 * v);
      __m256i& half = TIER == 5 && v == 1 ? r16 : q16;  // 8 * 2 * 24 * 127 would not fit
      half = sum16(plane_load(plane[0] + from), plane_load(plane[1] + from), v, half);
      if constexpr (TIER >= 6)
        r16 = sum16(plane_load(plane[2] + from), TIER == 8 ? plane_load(plane[3] + from) : _mm256_setzero_si256(), v, r16);
    }
    if constexpr (TIER == 4) return _mm256_cvtepi32_ps(_mm256_madd_epi16(q16, ones));
    if constexpr (TIER == 5)
      return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(q16, ones), _mm256_madd_epi16(r16, ones)));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(q16, _mm256_set1_epi16(14)), _mm256_madd_epi16(r16, ones)));
  }
  template <int TIER> static F dot(const Codes<TIER>& codes, const ActGroup& x) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i total = _mm256_setzero_si256(), q16 = total, r16 = total;
    for (int i = 0; i < 8; ++i) {
      const __m256i in = inputs(x.q, i), q = _mm256_maddubs_epi16(codes.q[i], in);
      if constexpr (TIER <= 3) {
        total = _mm256_add_epi32(total, _mm256_madd_epi16(q, ones));  // one pair nearly fills 16 bits
      } else {
        __m256i& half = TIER == 5 && i >= 4 ? r16 : q16;
        half = _mm256_add_epi16(half, q);
        if constexpr (TIER >= 6) r16 = _mm256_add_epi16(r16, _mm256_maddubs_epi16(codes.r[i], in));
      }
    }
    if constexpr (TIER == 4) total = _mm256_madd_epi16(q16, ones);
    if constexpr (TIER == 5) total = _mm256_add_epi32(_mm256_madd_epi16(q16, ones), _mm256_madd_epi16(r16, ones));
    if constexpr (TIER >= 6)
      total = _mm256_add_epi32(_mm256_madd_epi16(q16, _mm256_set1_epi16(14)), _mm256_madd_epi16(r16, ones));
    return _mm256_cvtepi32_ps(total);
  }
};

}  // namespace

HOBBIT_KERNEL_TABLE(kAvx2Kernels, Avx2, "avx2", kFormsAvx2, encode_panel_avx2);

}  // namespace hobbit
