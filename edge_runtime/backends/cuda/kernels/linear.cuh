// Products with the trunk's dense matrices, as a bundle stores them: float32 by inputs, or codes of 8 or 4 bits by rows.
//
// A token's sums are added in the same order alone and in company. Activations stay float32.
#pragma once
#include "platform.cuh"

// y = W x + bias for `tokens` rows; added to y instead where `adds`. Rows of x and y lie x_row and y_row numbers apart.
// Several matrices of one size, as those of each head: number b has x + b x_step, y + b y_step, and starts `step` bytes
// behind the one before, its scales `scale_step`. Matrices take turns in blockIdx.y, tokens first. There is one bias at
// most, for one matrix.
struct Linear {
  u32 inputs, outputs, tokens, adds;
  u32 block_shift;  // codes: 16 << block_shift inputs have one scale; a row is filled up to whole blocks
  u32 x_row, y_row, x_step, y_step, step, scale_step;
};

constexpr u32 kLinearWarps = 8;
constexpr u32 kMany = 4;      // tokens that share a read of the weights
constexpr u32 kCodes = 16;     // codes a lane takes at once

HB_DEV void finish_linear(const Linear& s, const float* bias, float* y, u32 batch, u32 token, u32 row, float sum) {
  float* out = y + (u64(token) * s.y_row + u64(batch) * s.y_step + row);
  const float value = bias ? sum + bias[row] : sum;
  *out = s.adds ? *out + value : value;
}
// Where a token's row starts; behind the last one the last again, whose result is not written.
HB_DEV u32 token_row(const Linear& s, u32 batch, u32 token) {
  return (token < s.tokens ? token : s.tokens - 1u) * s.x_row + batch * s.x_step;
}

// Which matrix a block is for, and its first token.
struct LinearPlace {
  u32 batch, first;
};
template <int TOKENS> HB_DEV LinearPlace linear_place(const Linear& s) {
  const u32 blocks = (s.tokens + TOKENS - 1u) / TOKENS, batch = blockIdx.y / blocks;
  return {batch, (blockIdx.y - batch * blocks) * TOKENS};
}

// W float32 [inputs, outputs]. grid (ceil(outputs / 32), matrices ceil(tokens / TOKENS)), 256 threads: a warp every eighth input.
template <int TOKENS>
HB_DEV void linear_float(const float* x, const float* w, const float* bias, float* y, const Linear& s) {
  HB_SHARED(float, parts, [kLinearWarps][TOKENS][kWarp]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, row = blockIdx.x * kWarp + lane;
  const LinearPlace place = linear_place<TOKENS>(s);
  const u32 first = place.first;
  w = reinterpret_cast<const float*>(reinterpret_cast<const u8*>(w) + u64(place.batch) * s.step);
  u32 rows[TOKENS];
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) rows[t] = token_row(s, place.batch, first + t);
  float sum[TOKENS] = {};
  if (row < s.outputs)
    for (u32 k = warp; k < s.inputs; k += kLinearWarps) {
      const float weight = w[u64(k) * s.outputs + row];
#pragma unroll
      for (int t = 0; t < TOKENS; ++t) sum[t] = fmaf(weight, x[rows[t] + k], sum[t]);
    }
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) parts[warp][t][lane] = sum[t];
  __syncthreads();
  if (warp >= TOKENS || first + warp >= s.tokens || row >= s.outputs) return;  // a warp a token
  float total = 0;
#pragma unroll
  for (u32 part = 0; part < kLinearWarps; ++part) total += parts[part][warp][lane];
  finish_linear(s, bias, y, place.batch, first + warp, row, total);
}

// Sixteen codes less their zero point.
template <int BITS> HB_DEV void load_codes(const u8* at, float (&v)[kCodes]) {
  if (BITS == 8) {
    const uint4 words = load16(at);
#pragma unroll
    for (int i = 0; i < int(kCodes); ++i) v[i] = float(i32((word_of(words, i / 4) >> (8 * (i % 4))) & 255u) - 128);
  } else {
    const uint2 words = load8(at);
#pragma unroll
    for (int i = 0; i < int(kCodes); ++i) v[i] = float(i32(((i < 8 ? words.x : words.y) >> (4 * (i % 8))) & 15u) - 8);
  }
}

// grid (ceil(outputs / 8), matrices ceil(tokens / TOKENS)), 256 threads: a warp a row. `inputs` is a multiple of 4.
template <int BITS, int TOKENS>
HB_DEV void linear_codes(const float* x, const u8* codes, const float* scales, const float* bias, float* y,
                         const Linear& s) {
  const u32 lane = threadIdx.x % kWarp, row = blockIdx.x * kLinearWarps + warp_index();
  const LinearPlace place = linear_place<TOKENS>(s);
  const u32 first = place.first;
  if (row >= s.outputs) return;
  const u32 units = (s.inputs + kCodes - 1u) / kCodes, blocks = (((s.inputs - 1u) / kCodes) >> s.block_shift) + 1u;
  const u8* mine = codes + u64(place.batch) * s.step + ((u64(row) * blocks) << s.block_shift) * (2 * BITS);
  const float* scale = reinterpret_cast<const float*>(reinterpret_cast<const u8*>(scales) + u64(place.batch) * s.scale_step);
  scale += u64(row) * blocks;
  u32 rows[TOKENS];
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) rows[t] = token_row(s, place.batch, first + t);
  float sum[TOKENS] = {};
  for (u32 unit = lane; unit < units; unit += kWarp) {
    float v[kCodes];
    load_codes<BITS>(mine + unit * (2 * BITS), v);
    const float by = scale[unit >> s.block_shift];
    const u32 left = s.inputs - kCodes * unit;  // the last unit may be filled in part
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
      const float4* at = reinterpret_cast<const float4*>(x + (rows[t] + kCodes * unit));
      float part = 0;
#pragma unroll
      for (u32 i = 0; i < 4; ++i) {
        if (4u * i >= left) break;
        const float4 a = at[i];
        part = fmaf(v[4 * i], a.x, part);
        part = fmaf(v[4 * i + 1], a.y, part);
        part = fmaf(v[4 * i + 2], a.z, part);
        part = fmaf(v[4 * i + 3], a.w, part);
      }
      sum[t] = fmaf(part, by, sum[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    const float total = sum_of_warp(sum[t]);
    if (lane == u32(t) && first + t < s.tokens) finish_linear(s, bias, y, place.batch, first + t, row, total);
  }
}
