// What the NEON units of panels share: 16 rows are four slices of 4, and two bits of each plane are unpacked to bytes.
#pragma once
#include "float_lanes.hpp"
#include "panel_impl.hpp"

namespace hobbit {
namespace {

struct NeonCodes : FloatLanes {
  static constexpr int kSlices = 4, kSlicesTogether = 2, kTokenBlock = 4, kTokenBlockBf16 = 1;
  static constexpr bool kDotOnce = false;
  using Table = uint8x16_t;  // the four entries of each of four rows

  static F load_u8(const uint8_t* p) {
    uint32_t four;
    std::memcpy(&four, p, 4);
    const uint16x8_t half = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(half)));
  }
  static F load_power(const uint8_t* p) {  // 2^(p - 127), 0 for 0
    uint32_t four;
    std::memcpy(&four, p, 4);
    const uint16x8_t half = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(half)), 23));
  }
  static F load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  static void prefetch(const uint8_t* p) { __builtin_prefetch(p + 512), __builtin_prefetch(p + 576); }

  static Table load_table(const uint8_t* p) { return vld1q_u8(p); }
  static uint8x16_t look_up(Table table, uint8x16_t codes) {
    const uint8x16_t rows = vreinterpretq_u8_u32(uint32x4_t{0, 0x04040404, 0x08080808, 0x0C0C0C0C});
    return vqtbl1q_u8(table, vbslq_u8(vdupq_n_u8(3), codes, rows));
  }
  static void join(uint8x16_t hi, uint8x16_t lo, uint8x16_t out[4]) {
    const uint8x16_t mask = vdupq_n_u8(0xCC), low = vdupq_n_u8(15);
    const uint8x16_t even = vbslq_u8(mask, vshlq_n_u8(hi, 2), lo), odd = vbslq_u8(mask, hi, vshrq_n_u8(lo, 2));
    out[0] = vandq_u8(even, low);
    out[1] = vandq_u8(odd, low);
    out[2] = vshrq_n_u8(even, 4);
    out[3] = vshrq_n_u8(odd, 4);
  }
  // Codes of 4 rows x 32 inputs, four inputs of each row a register, less ZERO at tiers 6 and 8.
  template <int TIER, int ZERO>
  [[gnu::always_inline]] static void unpack_bytes(uint8x16_t out[8], const uint8_t* const* plane, size_t at, Table table) {
    for (int v = 0; v < 2; ++v) {
      const size_t from = at + size_t(64 * v);
      const uint8x16_t p0 = vld1q_u8(plane[0] + from);
      uint8x16_t* q = out + 4 * v;
      if constexpr (TIER <= 3) {
        q[0] = look_up(table, p0);
        q[1] = look_up(table, vshrq_n_u8(p0, 2));
        q[2] = look_up(table, vshrq_n_u8(p0, 4));
        q[3] = look_up(table, vshrq_n_u8(p0, 6));
      } else {
        join(p0, vld1q_u8(plane[1] + from), q);
      }
      if constexpr (TIER == 5)
        for (int f = 0; f < 4; ++f) q[f] = vqtbl1q_u8(vld1q_u8(kFp4Codes), q[f]);
      if constexpr (TIER >= 6) {
        uint8x16_t r[4];
        join(vld1q_u8(plane[2] + from), TIER == 8 ? vld1q_u8(plane[3] + from) : vdupq_n_u8(0), r);
        for (int f = 0; f < 4; ++f)
          q[f] = vmlaq_u8(ZERO ? vsubq_u8(r[f], vdupq_n_u8(ZERO)) : r[f], q[f], vdupq_n_u8(14));
      }
    }
  }
};

}  // namespace
}  // namespace hobbit
