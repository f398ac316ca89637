// What surrounds the experts of a layer: norm, int8 groups, the router's rule, the weighted sum.
#pragma once
#include "activation.cuh"

// grid (ceil(T D / 32 / 8)), 256 threads: a warp a group. Tokens side by side, so groups are numbered through.
HB_DEV void quantize(const float* x, ActGroup* out, u32 groups) {
  const u32 group = blockIdx.x * (blockDim.x / kWarp) + warp_index();
  if (group < groups) quantize_group(x[u64(group) * kGroup + threadIdx.x % kWarp], out + group);
}

constexpr u32 kNormThreads = 256;

// grid (T), kNormThreads threads: out = weight x / sqrt(mean(x^2) + epsilon), float32 and as int8 groups.
HB_DEV void rms_norm(const float* x, const float* weight, float epsilon, float* out, ActGroup* groups, u32 hidden) {
  HB_SHARED(float, squares, [kNormThreads / kWarp]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp;
  const float* row = x + u64(blockIdx.x) * hidden;
  float sum = 0;
  for (u32 i = threadIdx.x; i < hidden; i += kNormThreads) sum = fmaf(row[i], row[i], sum);
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  if (lane == 0) squares[warp] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (u32 w = 0; w < kNormThreads / kWarp; ++w) total += squares[w];
  const float factor = 1.0f / sqrtf(total / float(hidden) + epsilon);
  for (u32 at = warp * kGroup; at < hidden; at += kNormThreads) {
    const float value = row[at + lane] * factor * weight[at + lane];
    out[u64(blockIdx.x) * hidden + at + lane] = value;
    quantize_group(value, groups + (u64(blockIdx.x) * hidden + at) / kGroup);
  }
}

// grid (ceil(D / 256), T), 256 threads: out[t] = sum over k of weights[t, k] y[t, k]. A weight of exactly 0 leaves its
// pair out: nothing was computed for it.
HB_DEV void combine(const float* y, const float* weights, float* out, u32 hidden, u32 top_k) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
  if (i >= hidden) return;
  float sum = 0;
  for (u32 k = 0; k < top_k; ++k) {
    const float w = weights[token * top_k + k];
    if (w != 0.0f) sum = fmaf(w, y[(u64(token) * top_k + k) * hidden + i], sum);
  }
  out[u64(token) * hidden + i] = sum;
}
