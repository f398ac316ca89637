// ARMv8.2 with the dot product extension. sdot is signed, so codes up to 225 are stored less 112 and the group sum puts
// 112 * sum back, exactly.
#include "elementwise.hpp"
#include "neon_codes.hpp"

namespace hobbit {
namespace {

struct Neon : NeonCodes {
  static constexpr bool kPairs = false;
  template <int TIER> struct Codes { int8x16_t c[8]; };

  template <int TIER>
  [[gnu::always_inline]] static void unpack(Codes<TIER>& codes, const uint8_t* const* plane, size_t at, Table table) {
    uint8x16_t bytes[8];
    unpack_bytes<TIER, 112>(bytes, plane, at, table);
    for (int i = 0; i < 8; ++i) codes.c[i] = vreinterpretq_s8_u8(bytes[i]);
  }
  template <int TIER> static F dot(const Codes<TIER>& codes, const ActGroup& x) {
    const int8x16_t lo = vld1q_s8(x.q), hi = vld1q_s8(x.q + 16);
    int32x4_t a = vdupq_n_s32(TIER >= 6 ? 112 * x.sum : 0), b = vdupq_n_s32(0);
    a = vdotq_laneq_s32(a, codes.c[0], lo, 0);
    b = vdotq_laneq_s32(b, codes.c[4], hi, 0);
    a = vdotq_laneq_s32(a, codes.c[1], lo, 1);
    b = vdotq_laneq_s32(b, codes.c[5], hi, 1);
    a = vdotq_laneq_s32(a, codes.c[2], lo, 2);
    b = vdotq_laneq_s32(b, codes.c[6], hi, 2);
    a = vdotq_laneq_s32(a, codes.c[3], lo, 3);
    b = vdotq_laneq_s32(b, codes.c[7], hi, 3);
    return vcvtq_f32_s32(vaddq_s32(a, b));
  }
};

}  // namespace

HOBBIT_KERNEL_TABLE(kNeonDotprodKernels, Neon, "neon-dotprod", kFormsBase, encode_panel_base);

}  // namespace hobbit
