// ARMv8.6 with i8mm: two rows of codes times two rows of x are one instruction, eight inputs at a time.
#include "neon_dense.hpp"

namespace hobbit {
namespace {

struct NeonI8mm : NeonDense {
  static constexpr bool kPairs = true;
  using Two = int8x16_t;  // eight inputs of two rows

  static Two two_rows(const int8_t* a, const int8_t* b) { return vcombine_s8(vld1_s8(a), vld1_s8(b)); }
  // Eight inputs of rows 0 and 1 of a slice, and of 2 and 3.
  template <int BITS> static void two_of_codes(const uint8_t* p, Two out[2]) {
    int8x16_t first, second;  // four inputs of four rows
    if constexpr (BITS == 8) {
      first = load8(p), second = load8(p + 4 * kRows);
    } else {
      const uint8x16_t both = load4(p);
      first = low(both), second = high(both);
    }
    const int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
    out[0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
    out[1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
  }
  static I dot_two(I sum, Two rows, Two x) { return vmmlaq_s32(sum, rows, x); }
  static I of_row(const I sums[2], int token) {
    return token == 0 ? vuzp1q_s32(sums[0], sums[1]) : vuzp2q_s32(sums[0], sums[1]);
  }
};

}  // namespace

HOBBIT_DENSE_TABLE(kDenseNeonI8mm, NeonI8mm, "neon-i8mm");

}  // namespace hobbit
