// AVX-512 with VNNI: one register holds 4 inputs of all 16 rows, one vpdpbusd consumes it.
#include "elementwise.hpp"
#include "float_lanes.hpp"
#include "panel_impl.hpp"

namespace hobbit {
namespace {

struct Avx512 : FloatLanes {
  static constexpr int kSlices = 1, kSlicesTogether = 1, kTokenBlock = 8, kTokenBlockBf16 = 4;
  static constexpr bool kDotOnce = false, kPairs = false;
  // A shuffle looks up within 128 bits: the four entries of each of four rows, row by row or entry by entry.
  struct Table { __m512i by_row, by_code; };
  template <int TIER> struct Codes { __m512i c[8]; };

  static F load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F load_power(const uint8_t* p) {  // 2^(p - 127), 0 for 0
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 23));
  }
  static F load_bf16(const uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + 2112), _MM_HINT_T0);
  }

  static __m512i every_four_rows(__m128i v) { return _mm512_broadcast_i32x4(v); }
  static Table load_table(const uint8_t* p) {
    const __m512i by_row = _mm512_loadu_si512(p);
    const __m128i turned = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return {by_row, _mm512_shuffle_epi8(by_row, every_four_rows(turned))};
  }
  // Codes in bits 0 and 1, the row behind them.
  static __m512i look_up_low(const Table& table, __m512i codes) {
    const __m512i rows = every_four_rows(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C));
    return _mm512_shuffle_epi8(table.by_row, _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(3), rows, 0xEA));  // a & b | c
  }
  // Codes in bits 2 and 3, the row before them: they need no shift.
  static __m512i look_up_high(const Table& table, __m512i codes) {
    const __m512i rows = every_four_rows(_mm_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303));
    return _mm512_shuffle_epi8(table.by_code, _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(12), rows, 0xEA));
  }
  static __m512i nibble(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static __m512i plane_load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  // Joins two planes to nibbles 4 hi + lo, fields 0..3.
  static void join(__m512i hi, __m512i lo, __m512i out[4]) {
    const __m512i mask = _mm512_set1_epi8(int8_t(0xCC));
    const __m512i even = _mm512_ternarylogic_epi32(mask, _mm512_slli_epi16(hi, 2), lo, 0xCA);
    const __m512i odd = _mm512_ternarylogic_epi32(mask, hi, _mm512_srli_epi16(lo, 2), 0xCA);
    out[0] = nibble(even);
    out[1] = nibble(odd);
    out[2] = nibble(_mm512_srli_epi16(even, 4));
    out[3] = nibble(_mm512_srli_epi16(odd, 4));
  }
  template <int TIER>
  [[gnu::always_inline]] static void unpack(Codes<TIER>& codes, const uint8_t* const* plane, size_t at, Table table) {
    for (int v = 0; v < 2; ++v) {
      __m512i* out = codes.c + 4 * v;
      const size_t from = at + size_t(64 * v);
      __m512i p0 = plane_load(plane[0] + from);
      if constexpr (TIER <= 3) {
        asm("" : "+v"(p0));  // else the shift loads it a second time
        const __m512i behind = _mm512_srli_epi16(p0, 4);
        out[0] = look_up_low(table, p0);
        out[1] = look_up_high(table, p0);
        out[2] = look_up_low(table, behind);
        out[3] = look_up_high(table, behind);
        continue;
      }
      join(p0, plane_load(plane[1] + from), out);
      if constexpr (TIER == 5) {
        const __m512i floats = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kFp4Codes)));
        for (int f = 0; f < 4; ++f) out[f] = _mm512_shuffle_epi8(floats, out[f]);
      }
      if constexpr (TIER >= 6) {
        const __m512i by14 = _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 14, 28, 42, 56, 70, 84, 98, 112, 126, char(140), char(154), char(168), char(182), char(196), char(210)));
        __m512i r[4];
        join(plane_load(plane[2] + from), TIER == 8 ? plane_load(plane[3] + from) : _mm512_setzero_si512(), r);
        for (int f = 0; f < 4; ++f) out[f] = _mm512_add_epi8(_mm512_shuffle_epi8(by14, out[f]), r[f]);
      }
    }
  }
  template <int TIER> static F dot(const Codes<TIER>& codes, const ActGroup& x) {
    __m512i a = _mm512_setzero_si512(), b = a;  // two chains: the instruction has 4-5 cycles latency
    for (int i = 0; i < 4; ++i) {
      int32_t lo, hi;
      std::memcpy(&lo, x.q + 4 * i, 4);
      std::memcpy(&hi, x.q + 16 + 4 * i, 4);
      a = _mm512_dpbusd_epi32(a, codes.c[i], _mm512_set1_epi32(lo));
      b = _mm512_dpbusd_epi32(b, codes.c[4 + i], _mm512_set1_epi32(hi));
    }
    return _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
  }
};

}  // namespace

HOBBIT_KERNEL_TABLE(kAvx512VnniKernels, Avx512, "avx512vnni", kFormsAvx512, encode_panel_avx512);

}  // namespace hobbit
