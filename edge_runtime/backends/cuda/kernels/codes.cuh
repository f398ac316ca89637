// Integer products of stored codes and int8 activations, for every tier.
#pragma once
#include "record.cuh"

// A word of a plane has one row's codes of 16 inputs: field f (bits 2f, 2f + 1 of each byte) is inputs 4f..4f+3.

// Nibbles 4 hi + lo of two planes: `even` has fields 0 and 2 in the lower and upper nibble of each byte, `odd` 1 and 3.
struct Nibbles {
  u32 even, odd;
};
HB_DEV Nibbles join_planes(u32 hi, u32 lo) {
  return {select_bits(0xCCCCCCCCu, hi << 2, lo), select_bits(0xCCCCCCCCu, hi, lo >> 2)};
}

// 16 inputs of one row. Upper nibbles are not shifted down: their products go to `by16`, which is sixteen times the sum.
HB_DEV void add_nibbles(u32 hi, u32 lo, const int4& x, i32& by1, i32& by16) {
  const Nibbles n = join_planes(hi, lo);
  by1 = dot4_us(n.even & 0x0F0F0F0Fu, x.x, by1);
  by1 = dot4_us(n.odd & 0x0F0F0F0Fu, x.y, by1);
  by16 = dot4_us(n.even & 0xF0F0F0F0u, x.z, by16);
  by16 = dot4_us(n.odd & 0xF0F0F0F0u, x.w, by16);
}

// 32 inputs of one row: sum over (4 hi + lo) x.
HB_DEV i32 dot_nibbles(const u32 (&hi)[2], const u32 (&lo)[2], const int4 (&x)[2]) {
  i32 by1 = 0, by16 = 0;
#pragma unroll
  for (int v = 0; v < 2; ++v) add_nibbles(hi[v], lo[v], x[v], by1, by16);
  return by1 + (by16 >> 4);
}

// Four lookups of a byte permutation take the nibbles of 16 bits as selectors; the activations are put in that order.
HB_DEV int4 order_for_table(const int4& x) {
  return {i32(permute(u32(x.x), u32(x.z), 0x5140)), i32(permute(u32(x.x), u32(x.z), 0x7362)),
          i32(permute(u32(x.y), u32(x.w), 0x5140)), i32(permute(u32(x.y), u32(x.w), 0x7362))};
}
HB_DEV i32 dot_table(const u32 (&w)[2], u32 table, const int4 (&x)[2]) {
  i32 d = 0;
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    const u32 even = w[v] & 0x33333333u, odd = (w[v] >> 2) & 0x33333333u;
    d = __dp4a(i32(permute(table, 0, even)), x[v].x, d);
    d = __dp4a(i32(permute(table, 0, even >> 16)), x[v].y, d);
    d = __dp4a(i32(permute(table, 0, odd)), x[v].z, d);
    d = __dp4a(i32(permute(table, 0, odd >> 16)), x[v].w, d);
  }
  return d;
}

// Records of 4-bit floats (docs/format.md, section 1.5). Their tiers 2 and 4 are 3 and 5 here: a group's scale is a power
// of two, and there are no minima.
template <int TIER> constexpr bool kIsFloat4 = TIER == 3 || TIER == 5;
template <int TIER> constexpr bool kHasTable = TIER == 2 || TIER == 3;

// Nibble 8 + n stands for a float of magnitude n, nibble 7 - n for the same below 0. Tables of twice the magnitudes:
constexpr u32 kAboveLow = 0x03020100u, kAboveHigh = 0x0C080604u, kBelowLow = 0x0406080Cu, kBelowHigh = 0x00010203u;

// Twice the float of each of the low four nibbles, in its byte.
HB_DEV u32 look_up_float4(u32 codes) {
  const u32 at = codes & 0x7777u, side = 0x3210u | ((codes >> 1) & 0x4444u);
  return permute(permute(0xFCFAF8F4u, 0x00FFFEFDu, at), permute(kAboveLow, kAboveHigh, at), side);
}
// 32 inputs of one row, with activations in the order of order_for_table. A nibble whose fourth bit is set gives the sign
// of a byte of the table, which is 0: so each table is looked up for all codes, and adds nothing for the other's.
HB_DEV i32 dot_float4(const u32 (&hi)[2], const u32 (&lo)[2], const int4 (&x)[2]) {
  i32 above = 0, below = 0;
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    const Nibbles n = join_planes(hi[v], lo[v]);
    const u32 even = n.even ^ 0x88888888u, odd = n.odd ^ 0x88888888u;
    above = __dp4a(i32(permute(kAboveLow, kAboveHigh, even)), x[v].x, above);
    above = __dp4a(i32(permute(kAboveLow, kAboveHigh, even >> 16)), x[v].y, above);
    above = __dp4a(i32(permute(kAboveLow, kAboveHigh, odd)), x[v].z, above);
    above = __dp4a(i32(permute(kAboveLow, kAboveHigh, odd >> 16)), x[v].w, above);
    below = __dp4a(i32(permute(kBelowLow, kBelowHigh, n.even)), x[v].x, below);
    below = __dp4a(i32(permute(kBelowLow, kBelowHigh, n.even >> 16)), x[v].y, below);
    below = __dp4a(i32(permute(kBelowLow, kBelowHigh, n.odd)), x[v].z, below);
    below = __dp4a(i32(permute(kBelowLow, kBelowHigh, n.odd >> 16)), x[v].w, below);
  }
  return above - below;
}

// What follows the integer products: `codes` is over q at tier 4, over the table at tier 2, and 14 times q's plus that of
// planes 2 and 3 at tiers 6 and 8, whose weights are a / 14 times 14 q + 4 p2 - 6, and half of 2 (14 q + r) - 15.
constexpr i32 kFine = 14;
template <int TIER> HB_DEV i32 center_codes(i32 codes, i32 sum) {
  return TIER == 3 ? codes - 48 * sum : TIER == 6 ? codes - 6 * sum : TIER == 8 ? 2 * codes - 15 * sum : codes;
}
template <int TIER> constexpr float kUnit = TIER == 2 ? 1.0f / 8 : TIER == 3 ? 1.0f / 4 : TIER <= 5 ? 1.0f : TIER == 6 ? 1.0f / 14 : 0.5f / 14;

// A group's integer product times its scale byte: a factor, or of 4-bit floats the exponent of a power of two, 0 for 0.
template <int TIER> HB_DEV float scale_code(i32 code, u32 scale) {
  return kIsFloat4<TIER> ? float(code) * __int_as_float(i32(scale << 23)) : float(code * i32(scale));
}

// y = row_scale unit sum(scale code x) - row_min sum(min x). One rounding of the difference, on every compiler.
template <int TIER> HB_DEV float finish_row(float codes, float minima, float row_scale, float row_min) {
  return fmaf(codes, row_scale * kUnit<TIER>, -(minima * row_min));
}
