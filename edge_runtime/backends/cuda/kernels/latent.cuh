// MLA between its projections and the softmax: rotated parts of queries, and what is kept of a token.
#pragma once
#include "attention.cuh"

struct Latent {
  u32 heads, rank, nope, rope, rotated;  // rotated: of the `rope` numbers, as two halves
};

// grid (H + 1, T), 32 threads. Head h < H: the last `rope` numbers of q [T, H, nope + rope] are rotated and go behind the
// `rank` numbers of queries [T, H, rank + rope], which a product writes. Head H: low [T, rank + rope], whose first `rank`
// numbers were normed, goes to slot past[0] + token of cache [N, rank + rope], its last `rope` numbers rotated.
HB_DEV void place_latent(const float* q, const float* low, const float* cos, const float* sin, const i32* past,
                         float* queries, float* cache, const Latent& s) {
  HB_SHARED(float, v, [kMostHeadDim]);
  const u32 lane = threadIdx.x, head = blockIdx.x, token = blockIdx.y, width = s.rank + s.rope, half = s.rotated / 2;
  const bool is_kept = head == s.heads;
  const float* from = is_kept ? low + u64(token) * width : q + (u64(token) * s.heads + head) * (s.nope + s.rope);
  float* to = is_kept ? cache + (u64(past[0]) + token) * width : queries + (u64(token) * s.heads + head) * width;
  if (is_kept)
    for (u32 i = lane; i < s.rank; i += kWarp) to[i] = from[i];
  from += is_kept ? s.rank : s.nope;
  for (u32 i = lane; i < s.rope; i += kWarp) v[i] = from[i];
  __syncwarp();
  if (half) rotate_head(v, cos + u64(token) * half, sin + u64(token) * half, s.rotated, 0);
  for (u32 i = lane; i < s.rope; i += kWarp) to[s.rank + i] = v[i];
}
