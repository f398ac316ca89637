// Attention of one layer behind its projection: norm of heads, rotary embedding, the cache, softmax over cached keys.
#pragma once
#include "platform.cuh"

constexpr u32 kMostHeadDim = 512;
constexpr u32 kHeadParts = 8;       // numbers of a head a lane has: heads of at most 256 numbers,
constexpr u32 kWideHeadParts = 18;  // or of at most 576: a rank of 512 beside a rotated key of 64
constexpr u32 kAttendWarps = 8;

enum HeadNorm : u32 { kNoNorm = 0, kBeforeRotation = 1, kBehindRotation = 2 };

// A token's row of qkv holds H queries, then G keys, and from head number `values` on G values; `row` numbers in all.
// keys and values float32 [G, N, C].
struct Heads {
  u32 heads, kv_heads, dim, context;
  u32 row, values;
  u32 rotated;             // dims of a head that are, as two halves, or as pairs of neighbours
  u32 pairs, norm, value_norm;
  float clip, epsilon;     // clip: infinity where nothing is clamped
};

// One warp: v [dim] in shared memory becomes its RMS norm, times gamma where there is one.
HB_DEV void norm_head(float* v, const float* gamma, u32 dim, float epsilon) {
  const u32 lane = threadIdx.x;
  float squares = 0;
  for (u32 i = lane; i < dim; i += kWarp) squares = fmaf(v[i], v[i], squares);
  const float factor = 1.0f / sqrtf(sum_of_warp(squares) / float(dim) + epsilon);
  for (u32 i = lane; i < dim; i += kWarp) v[i] *= gamma ? factor * gamma[i] : factor;
  __syncwarp();
}

// One warp: the first `rotated` numbers of v, by the angles of a token; each lane turns pairs of its own.
HB_DEV void rotate_head(float* v, const float* cos, const float* sin, u32 rotated, u32 pairs) {
  const u32 half = rotated / 2;
  for (u32 i = threadIdx.x; i < half; i += kWarp) {
    const u32 first = pairs ? 2 * i : i, second = pairs ? 2 * i + 1 : i + half;
    const float a = v[first], b = v[second];
    v[first] = a * cos[i] - b * sin[i];
    v[second] = b * cos[i] + a * sin[i];
  }
  __syncwarp();
}

// grid (H + 2 G, T), 32 threads: a head. Queries stay where they are; keys and values go to slots past[0] + token.
// gammas [H + G, C]: norm of each head; null: there is none. cos, sin [T, rotated / 2].
HB_DEV void place_heads(float* qkv, const float* gammas, const float* cos, const float* sin, const i32* past, float* keys,
                        float* values, const Heads& s) {
  HB_SHARED(float, v, [kMostHeadDim]);
  const u32 lane = threadIdx.x, head = blockIdx.x, token = blockIdx.y, joint = s.heads + s.kv_heads;
  const bool is_value = head >= joint;
  const u32 group = is_value ? head - joint : head - s.heads, slot = u32(past[0]) + token, half = s.rotated / 2;
  float* row = qkv + (u64(token) * s.row + u64(is_value ? s.values + group : head) * s.dim);
  for (u32 i = lane; i < s.dim; i += kWarp) {
    const float a = row[i];
    v[i] = a > s.clip ? s.clip : a < -s.clip ? -s.clip : a;
  }
  __syncwarp();
  const float* gamma = gammas ? gammas + u64(head) * s.dim : nullptr;
  if (is_value && s.value_norm) norm_head(v, nullptr, s.dim, s.epsilon);
  if (!is_value && s.norm == kBeforeRotation) norm_head(v, gamma, s.dim, s.epsilon);
  if (!is_value && half) rotate_head(v, cos + u64(token) * half, sin + u64(token) * half, s.rotated, s.pairs);
  if (!is_value && s.norm == kBehindRotation) norm_head(v, gamma, s.dim, s.epsilon);
  float* to = head < s.heads ? row : (is_value ? values : keys) + (u64(group) * s.context + slot) * s.dim;
  for (u32 i = lane; i < s.dim; i += kWarp) to[i] = v[i];
}

// Queries [T, row] of H heads of `dim` numbers; keys [G, N, dim]; values: the first `value_dim` of each `value_row`
// numbers [G, N, value_row]. `gate`: where in a token's row gates [H, value_dim] begin, whose sigmoid the output is
// multiplied by; 0: there are none.
struct Attend {
  u32 heads, kv_heads, dim, context;
  u32 window;  // 0: a token sees all before it
  float scale;
  u32 row, value_dim, value_row, gate;
};

// grid (H, T), 256 threads: a warp every eighth key. sinks [H] or null. out [T, H, value_dim].
template <u32 PARTS>
HB_DEV void attend(const float* qkv, const float* keys, const float* values, const float* sinks, const i32* past, float* out,
                   const Attend& s) {
  HB_SHARED(float, sums, [kAttendWarps][PARTS * kWarp]);
  HB_SHARED(float, tops, [kAttendWarps]);
  HB_SHARED(float, totals, [kAttendWarps]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, head = blockIdx.x, token = blockIdx.y;
  const u64 group = u64(head / (s.heads / s.kv_heads)) * s.context;
  const float *query = qkv + (u64(token) * s.row + u64(head) * s.dim);
  const u32 end = u32(past[0]) + token + 1u, first = s.window && end > s.window ? end - s.window : 0u;
  float q[PARTS], sum[PARTS] = {};
#pragma unroll
  for (u32 i = 0; i < PARTS; ++i) q[i] = lane + kWarp * i < s.dim ? query[lane + kWarp * i] * s.scale : 0.0f;
  float top = -__int_as_float(0x7f800000), total = 0;
  for (u32 slot = first + warp; slot < end; slot += kAttendWarps) {
    const float *key = keys + (group + slot) * s.dim, *value = values + (group + slot) * s.value_row;
    float score = 0;
#pragma unroll
    for (u32 i = 0; i < PARTS; ++i)
      if (lane + kWarp * i < s.dim) score = fmaf(q[i], key[lane + kWarp * i], score);
    score = sum_of_warp(score);
    const float higher = fmaxf(top, score), kept = expf(top - higher), weight = expf(score - higher);
    total = fmaf(total, kept, weight);
    top = higher;
#pragma unroll
    for (u32 i = 0; i < PARTS; ++i)
      if (lane + kWarp * i < s.value_dim) sum[i] = fmaf(weight, value[lane + kWarp * i], sum[i] * kept);
  }
#pragma unroll
  for (u32 i = 0; i < PARTS; ++i)
    if (lane + kWarp * i < s.value_dim) sums[warp][lane + kWarp * i] = sum[i];
  if (lane == 0) {
    tops[warp] = top;
    totals[warp] = total;
  }
  __syncthreads();
  float highest = sinks ? sinks[head] : tops[0];
#pragma unroll
  for (u32 w = 0; w < kAttendWarps; ++w) highest = fmaxf(highest, tops[w]);
  float below = sinks ? expf(sinks[head] - highest) : 0.0f, part[kAttendWarps];
#pragma unroll
  for (u32 w = 0; w < kAttendWarps; ++w) {
    part[w] = expf(tops[w] - highest);
    below = fmaf(totals[w], part[w], below);
  }
  for (u32 i = threadIdx.x; i < s.value_dim; i += kAttendWarps * kWarp) {
    float above = 0;
#pragma unroll
    for (u32 w = 0; w < kAttendWarps; ++w) above = fmaf(sums[w][i], part[w], above);
    float seen = above / below;
    if (s.gate) seen /= 1.0f + expf(-qkv[u64(token) * s.row + s.gate + u64(head) * s.value_dim + i]);
    out[(u64(token) * s.heads + head) * s.value_dim + i] = seen;
  }
}
