// One token through one panel of a record, by one warp or by two that share it. What decoding does all day.
//
// Lane = 4 (group of eight) + quad; a quad is four rows. A warp reads eight groups of a plane as two requests of 512
// bytes; every byte of the record is read by exactly one lane, exactly once, in whole 32-byte sectors.
//
// A row's float sum has 16 parts, one for each (lane of eight, warp of two): part (c, s) adds groups 16 i + 8 s + c in
// order. They are added as a tree over c, then over s. batch.cuh keeps that order, so both give the same bits.
#pragma once
#include "codes.cuh"

constexpr u32 kSplit = 2;          // warps that share a panel
constexpr u32 kLaneGroups = 8;     // groups a warp reads at once
constexpr u32 kStride = kLaneGroups * kSplit;

// Eight lanes' parts of a row, added as a tree; `bit` is the first lane bit that counts them.
HB_DEV float add_over_lanes(float part, u32 bit) {
  for (u32 mask = bit; mask < kWarp; mask <<= 1) part += __shfl_xor_sync(kAllLanes, part, mask);
  return part;
}

// Scales and minima of four rows in one group. A quartet of lanes reads a group's 32 bytes, 8 each, and swaps words.
struct GroupMeta {
  u32 scales, minima;
};
HB_DEV GroupMeta swap_meta(const uint2& mine, u32 lane) {
  const u32 quad = lane & 3u, from = (lane & ~3u) | (quad >> 1) | ((quad & 1u) << 1);
  const u32 first = __shfl_sync(kAllLanes, quad < 2 ? mine.x : mine.y, from);
  const u32 second = __shfl_sync(kAllLanes, quad < 2 ? mine.y : mine.x, from ^ 2u);
  return quad & 1u ? GroupMeta{second, first} : GroupMeta{first, second};
}

// One warp's walk over a panel: the pointers are those of its lanes' next group.
template <int TIER> struct PanelSum {
  const u8 *start, *meta, *plane[TIER / 2];
  const ActGroup* x;
  u32 lane;
  u32 table[4] = {0, 0, 0, 0};  // tiers 2 and 3: of this lane's rows
  float codes[4] = {0, 0, 0, 0}, minima[4] = {0, 0, 0, 0};

  HB_DEV PanelSum(const Panel<TIER>& p, const ActGroup* acts, u32 group, u32 lane_idx) : start(p.meta), lane(lane_idx) {
    const u32 quad = lane & 3u;
    x = acts + group;
    meta = p.meta + kPanelMeta + kGroupMeta * group + 8u * quad;
#pragma unroll
    for (int k = 0; k < TIER / 2; ++k) plane[k] = p.plane[k] + kGroupPlane * group + 16u * quad;
    if (!kHasTable<TIER>) return;
    const uint4 t = load16(start + kPanelTables + 16u * quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) table[i] = word_of(t, i);
  }

  HB_DEV void advance() {
    x += kStride;
    meta += kStride * kGroupMeta;
#pragma unroll
    for (int k = 0; k < TIER / 2; ++k) plane[k] += kStride * kGroupPlane;
  }

  // One group for this lane, `back` groups before its pointers. `inside`: the group is its own; otherwise it is one that
  // exists, taken with codes of zero.
  HB_DEV void add(u32 back, bool inside) {
    uint4 w[2][TIER / 2] = {};
    uint2 own = {0, 0};
    if (inside) {
#pragma unroll
      for (int k = 0; k < TIER / 2; ++k)
#pragma unroll
        for (int v = 0; v < 2; ++v) w[v][k] = load16(plane[k] + 64u * v);
      own = load8(meta);
    }
    const ActGroup& act = *(x - back);
    const int4 acts[2] = {*reinterpret_cast<const int4*>(&act.q[0]), *reinterpret_cast<const int4*>(&act.q[4])};
    const float4 scale = *reinterpret_cast<const float4*>(&act.scale);  // scale, scale_sum, sum
    const GroupMeta m = swap_meta(own, lane);
    constexpr bool kLooksUp = kHasTable<TIER> || TIER == 5;
    const int4 xs[2] = {kLooksUp ? order_for_table(acts[0]) : acts[0], kLooksUp ? order_for_table(acts[1]) : acts[1]};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 row[4][2] = {};
#pragma unroll
      for (int k = 0; k < TIER / 2; ++k) row[k][0] = word_of(w[0][k], i), row[k][1] = word_of(w[1][k], i);
      i32 code = kHasTable<TIER> ? dot_table(row[0], table[i], xs)
                 : TIER == 5     ? dot_float4(row[0], row[1], xs)
                                 : dot_nibbles(row[0], row[1], xs);
      if (TIER >= 6) code = kFine * code + dot_nibbles(row[2], row[3], xs);
      code = center_codes<TIER>(code, __float_as_int(scale.z));
      codes[i] = fmaf(scale_code<TIER>(code, permute(m.scales, 0, 0x4440 + i)), scale.x, codes[i]);
      if (!kIsFloat4<TIER>) minima[i] = fmaf(float((m.minima >> 8 * i) & 255u), scale.y, minima[i]);
    }
  }

  // The sums of four rows, 4 quad .. 4 quad + 3, over this warp's groups.
  HB_DEV void finish(float (&y)[4]) {
    const float head = __int_as_float(i32(load4(start + 4u * lane)));  // lanes 0..15: row scales, 16..31: minima
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 row = 4u * (lane & 3u) + i;
      const float scale = __shfl_sync(kAllLanes, head, row), least = __shfl_sync(kAllLanes, head, kPanelRows + row);
      y[i] = add_over_lanes(finish_row<TIER>(codes[i], minima[i], scale, least), 4);
    }
  }
};

// Warp `split` of two: y[i] in every lane is its part of row 4 (lane & 3) + i.
template <int TIER> HB_DEV void dot_panel(const Panel<TIER>& panel, const ActGroup* x, u32 groups, u32 split, float (&y)[4]) {
  const u32 lane = threadIdx.x % kWarp, mine = lane >> 2;
  u32 at = kLaneGroups * split;
  PanelSum<TIER> sum(panel, x, at + mine, lane);
  for (; at + kLaneGroups <= groups; at += kStride, sum.advance()) sum.add(0, true);
  if (at < groups) sum.add(at + mine < groups ? 0 : at + mine - (groups - 1u), at + mine < groups);
  sum.finish(y);
}

// The same of a bfloat16 panel, for N tokens at once. Lane = 2 (input of 16) + half of the rows; part (c, s) adds inputs
// 32 i + 16 s + c. y[n][i] in every lane is row 8 (lane & 1) + i.
template <int N> HB_DEV void dot_panel_bf16(const u8* panel, const float* const (&x)[N], u32 inputs, u32 split, float (&y)[N][8]) {
  const u32 lane = threadIdx.x % kWarp;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 8; ++i) y[n][i] = 0;
#pragma unroll 4
  for (u32 at = 16u * split + (lane >> 1); at < inputs; at += 16u * kSplit) {
    const uint4 w = load16(panel + 32u * at + 16u * (lane & 1u));
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float value = x[n][at];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const u32 pair = word_of(w, i >> 1);
        y[n][i] = fmaf(__int_as_float(i32(i & 1 ? pair & 0xffff0000u : pair << 16)), value, y[n][i]);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 8; ++i) y[n][i] = add_over_lanes(y[n][i], 2);
}
