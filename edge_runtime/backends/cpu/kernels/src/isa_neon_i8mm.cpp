// ARMv8.6 with i8mm, which multiplies unsigned codes with signed activations: nothing is taken from the codes and put
// back. Two rows of codes times two tokens are one instruction, eight inputs at a time.
#include "elementwise.hpp"
#include "neon_codes.hpp"

namespace hobbit {
namespace {

struct NeonI8mm : NeonCodes {
  static constexpr bool kPairs = true;
  static constexpr int kTokenBlock = 8;  // unpacking and pairing are done once for all of them
  template <int TIER> struct Codes { uint8x16_t c[8]; };

  template <int TIER>
  [[gnu::always_inline]] static void unpack(Codes<TIER>& codes, const uint8_t* const* plane, size_t at, Table table) {
    unpack_bytes<TIER, 0>(codes.c, plane, at, table);
  }
  template <int TIER> static F dot(const Codes<TIER>& codes, const ActGroup& x) {
    const int8x16_t lo = vld1q_s8(x.q), hi = vld1q_s8(x.q + 16);
    int32x4_t a = vdupq_n_s32(0), b = a;
    a = vusdotq_laneq_s32(a, codes.c[0], lo, 0);
    b = vusdotq_laneq_s32(b, codes.c[4], hi, 0);
    a = vusdotq_laneq_s32(a, codes.c[1], lo, 1);
    b = vusdotq_laneq_s32(b, codes.c[5], hi, 1);
    a = vusdotq_laneq_s32(a, codes.c[2], lo, 2);
    b = vusdotq_laneq_s32(b, codes.c[6], hi, 2);
    a = vusdotq_laneq_s32(a, codes.c[3], lo, 3);
    b = vusdotq_laneq_s32(b, codes.c[7], hi, 3);
    return vcvtq_f32_s32(vaddq_s32(a, b));
  }

  // From four inputs of four rows a register to eight inputs of two rows: rows 0 and 1 in c[2 k], 2 and 3 in c[2 k + 1].
  template <int TIER> [[gnu::always_inline]] static void pair_rows(Codes<TIER>& codes) {
    for (int k = 0; k < 8; k += 2) {
      const uint32x4_t first = vreinterpretq_u32_u8(codes.c[k]), second = vreinterpretq_u32_u8(codes.c[k + 1]);
      codes.c[k] = vreinterpretq_u8_u32(vzip1q_u32(first, second));
      codes.c[k + 1] = vreinterpretq_u8_u32(vzip2q_u32(first, second));
    }
  }
  // Dot products of paired rows with two tokens.
  template <int TIER>
  [[gnu::always_inline]] static void dot_pair(const Codes<TIER>& codes, const ActGroup& x, const ActGroup& y, F out[2]) {
    int32x4_t upper = vdupq_n_s32(0), lower = upper;  // [row][token]
    for (int half = 0; half < 2; ++half) {
      const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x.q + 16 * half));
      const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(y.q + 16 * half));
      const int8x16_t first = vreinterpretq_s8_s64(vzip1q_s64(a, b)), second = vreinterpretq_s8_s64(vzip2q_s64(a, b));
      upper = vusmmlaq_s32(upper, codes.c[4 * half], first);
      lower = vusmmlaq_s32(lower, codes.c[4 * half + 1], first);
      upper = vusmmlaq_s32(upper, codes.c[4 * half + 2], second);
      lower = vusmmlaq_s32(lower, codes.c[4 * half + 3], second);
    }
    out[0] = vcvtq_f32_s32(vuzp1q_s32(upper, lower));
    out[1] = vcvtq_f32_s32(vuzp2q_s32(upper, lower));
  }
};

}  // namespace

HOBBIT_KERNEL_TABLE(kNeonI8mmKernels, NeonI8mm, "neon-i8mm", kFormsBase, encode_panel_base);

}  // namespace hobbit
