// Reads memory once, as fast as it comes: what any product with weights in that memory could reach at most.
#pragma once
#include "platform.cuh"

constexpr u32 kReadThreads = 256;
constexpr u32 kReadAhead = 4;  // loads a thread has under way

// grid (blocks, 1), 256 threads. `units` of 16 bytes; sums u32 [8 blocks]: of the 32-bit words each warp read, modulo 2^32.
HB_DEV void read_words(const u8* from, u32 units, u32* sums) {
  const u32 stride = gridDim.x * kReadThreads;
  u32 sum = 0, unit = blockIdx.x * kReadThreads + threadIdx.x;
  for (; unit < units && units - unit > (kReadAhead - 1u) * stride; unit += kReadAhead * stride) {
    uint4 words[kReadAhead];
#pragma unroll
    for (u32 i = 0; i < kReadAhead; ++i) words[i] = load16(from + u64(16) * (unit + i * stride));
#pragma unroll
    for (u32 i = 0; i < kReadAhead; ++i) sum += words[i].x + words[i].y + words[i].z + words[i].w;
  }
  for (; unit < units; unit += stride) {
    const uint4 words = load16(from + u64(16) * unit);
    sum += words.x + words.y + words.z + words.w;
  }
#pragma unroll
  for (u32 mask = kWarp / 2; mask; mask >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  const u32 warp = warp_index();
  if (threadIdx.x % kWarp == 0) sums[blockIdx.x * (kReadThreads / kWarp) + warp] = sum;
}
