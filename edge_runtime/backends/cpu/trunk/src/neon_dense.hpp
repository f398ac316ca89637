// What the NEON units of the dense part share: four slices of 4 rows.
#pragma once
#include "dense_impl.hpp"
#include "float_lanes.hpp"

namespace hobbit {
namespace {

struct NeonDense : FloatLanes {
  static constexpr int kSlices = 4, kSlicesTogether = 2, kFloatRows = 4, kTwoPanels = 1, kCodeRows = 4, kZero8 = 0;
  using I = int32x4_t;

  static void prefetch(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + 1024); }

  static I ints(int32_t x) { return vdupq_n_s32(x); }
  static I add_ints(I a, I b) { return vaddq_s32(a, b); }
  static F to_float(I x) { return vcvtq_f32_s32(x); }
  static int8x16_t load8(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
  static uint8x16_t load4(const uint8_t* p) { return vld1q_u8(p); }
  static int8x16_t low(uint8x16_t both) { return vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))); }
  static int8x16_t high(uint8x16_t both) { return vreinterpretq_s8_u8(vshrq_n_u8(both, 4)); }
  static I dot8(I sum, int8x16_t w, int32_t four) { return vdotq_s32(sum, w, vreinterpretq_s8_s32(vdupq_n_s32(four))); }
  static I dot4(I sum, int8x16_t w, int32_t four) { return dot8(sum, w, four); }

  static void transpose4(const float* const* rows, size_t c, float* out) {
    for (int quarter = 0; quarter < 4; ++quarter, rows += 4, out += 4) {
      const float32x4x2_t ab = vtrnq_f32(vld1q_f32(rows[0] + c), vld1q_f32(rows[1] + c));
      const float32x4x2_t de = vtrnq_f32(vld1q_f32(rows[2] + c), vld1q_f32(rows[3] + c));
      vst1q_f32(out, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(de.val[0])));
      vst1q_f32(out + 16, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(de.val[1])));
      vst1q_f32(out + 32, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(de.val[0])));
      vst1q_f32(out + 48, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(de.val[1])));
    }
  }
};

}  // namespace
}  // namespace hobbit
