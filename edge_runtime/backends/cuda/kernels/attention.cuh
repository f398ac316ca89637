// Attention of one layer behind its projection: norm of heads, rotary embedding, the cache, softmax over cached keys.
#pragma once
#include "platform.cuh"

constexpr u32 kMostHeadDim = 256;
constexpr u32 kHeadParts = kMostHeadDim / kWarp;  // numbers of a head a lane has
constexpr u32 kAttendWarps = 8;

// qkv float32 [T, H + 2 G, C]; keys and values float32 [G, N, C].
struct Heads {
  u32 heads, kv_heads, dim, context;
  u32 rotated;          // dims of a head that are, as two halves
  float clip, epsilon;  // clip: infinity where nothing is clamped
};

// grid (H + 2 G, T), 32 threads: a head. Queries stay where they are; keys and values go to slots past[0] + token.
// gammas [H + G, C]: norm of each head; null: there is none. cos, sin [T, rotated / 2].
HB_DEV void place_heads(float* qkv, const float* gammas, const float* cos, const float* sin, const i32* past, float* keys,
                        float* values, const Heads& s) {
  HB_SHARED(float, v, [kMostHeadDim]);
  const u32 lane = threadIdx.x, head = blockIdx.x, token = blockIdx.y, joint = s.heads + s.kv_heads;
  float* row = qkv + (u64(token) * (joint + s.kv_heads) + head) * s.dim;
  float squares = 0;
  for (u32 i = lane; i < s.dim; i += kWarp) {
    const float a = row[i], b = a > s.clip ? s.clip : a < -s.clip ? -s.clip : a;
    v[i] = b;
    squares = fmaf(b, b, squares);
  }
  squares = sum_of_warp(squares);
  const bool is_value = head >= joint;
  if (gammas && !is_value) {
    const float factor = 1.0f / sqrtf(squares / float(s.dim) + s.epsilon);
    for (u32 i = lane; i < s.dim; i += kWarp) v[i] *= factor * gammas[head * s.dim + i];
  }
  __syncwarp();
  const u32 slot = u32(past[0]) + token, half = s.rotated / 2, group = is_value ? head - joint : head - s.heads;
  float* to = head < s.heads ? row : (is_value ? values : keys) + (u64(group) * s.context + slot) * s.dim;
  for (u32 i = lane; i < s.dim; i += kWarp) {
    const u32 angle = token * half + (i < half ? i : i - half);
    float out = v[i];
    if (!is_value && i < half) out = v[i] * cos[angle] - v[i + half] * sin[angle];
    if (!is_value && i >= half && i < s.rotated) out = v[i] * cos[angle] + v[i - half] * sin[angle];
    to[i] = out;
  }
}

struct Attend {
  u32 heads, kv_heads, dim, context;
  u32 window;  // 0: a token sees all before it
  float scale;
};

// grid (H, T), 256 threads: a warp every eighth key. sinks [H] or null. out [T, H, C].
HB_DEV void attend(const float* qkv, const float* keys, const float* values, const float* sinks, const i32* past, float* out,
                   const Attend& s) {
  HB_SHARED(float, sums, [kAttendWarps][kMostHeadDim]);
  HB_SHARED(float, tops, [kAttendWarps]);
  HB_SHARED(float, totals, [kAttendWarps]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, head = blockIdx.x, token = blockIdx.y;
  const u64 group = u64(head / (s.heads / s.kv_heads)) * s.context * s.dim;
  const float* query = qkv + (u64(token) * (s.heads + 2u * s.kv_heads) + head) * s.dim;
  const u32 end = u32(past[0]) + token + 1u, first = s.window && end > s.window ? end - s.window : 0u;
  float q[kHeadParts], sum[kHeadParts] = {};
#pragma unroll
  for (u32 i = 0; i < kHeadParts; ++i) q[i] = lane + kWarp * i < s.dim ? query[lane + kWarp * i] * s.scale : 0.0f;
  float top = -__int_as_float(0x7f800000), total = 0;
  for (u32 slot = first + warp; slot < end; slot += kAttendWarps) {
    const float *key = keys + group + u64(slot) * s.dim, *value = values + group + u64(slot) * s.dim;
    float score = 0;
#pragma unroll
    for (u32 i = 0; i < kHeadParts; ++i)
      if (lane + kWarp * i < s.dim) score = fmaf(q[i], key[lane + kWarp * i], score);
    score = sum_of_warp(score);
    const float higher = fmaxf(top, score), kept = expf(top - higher), weight = expf(score - higher);
    total = fmaf(total, kept, weight);
    top = higher;
#pragma unroll
    for (u32 i = 0; i < kHeadParts; ++i)
      if (lane + kWarp * i < s.dim) sum[i] = fmaf(weight, value[lane + kWarp * i], sum[i] * kept);
  }
#pragma unroll
  for (u32 i = 0; i < kHeadParts; ++i)
    if (lane + kWarp * i < s.dim) sums[warp][lane + kWarp * i] = sum[i];
  if (lane == 0) {
    tops[warp] = top;
    totals[warp] = total;
  }
  __syncthreads();
  if (threadIdx.x >= s.dim) return;
  float highest = sinks ? sinks[head] : tops[0];
#pragma unroll
  for (u32 w = 0; w < kAttendWarps; ++w) highest = fmaxf(highest, tops[w]);
  float below = sinks ? expf(sinks[head] - highest) : 0.0f, above = 0;
#pragma unroll
  for (u32 w = 0; w < kAttendWarps; ++w) {
    const float part = expf(tops[w] - highest);
    below = fmaf(totals[w], part, below);
    above = fmaf(sums[w][threadIdx.x], part, above);
  }
  out[(u64(token) * s.heads + head) * s.dim + threadIdx.x] = above / below;
}
