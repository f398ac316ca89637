// Runs every function of platform.cuh on tables of inputs. On a new device this goes first: what a CPU emulates of them
// proves nothing about the instructions themselves.
#pragma once
#include "platform.cuh"

constexpr u32 kSelfTestWords = 16;  // of input, and of output, for each of the 32 lanes

// grid (1), 32 threads. Lane l gets in[16 l ..] and writes out[16 l ..]:
// in   0..3 bytes to load   4, 5 dp4a operands   6 float bits   7..10 A fragment   11, 12 B fragment   13 selector   14 mask
// out  0..3 load16   4, 5 load8   6 load4   7 dot4_us   8 __dp4a   9 __float2int_rn   10..13 mma   14 permute
//      15 shuffles and select_bits
HB_DEV void self_test(const u32* in, u32* out) {
  const u32 lane = threadIdx.x;
  const u32* mine = in + kSelfTestWords * lane;
  u32* to = out + kSelfTestWords * lane;
  const u8* bytes = reinterpret_cast<const u8*>(mine);
  const uint4 four = load16(bytes);
  const uint2 two = load8(bytes);
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = word_of(four, i);
  to[4] = two.x;
  to[5] = two.y;
  to[6] = load4(bytes + 4);
  to[7] = u32(dot4_us(mine[4], i32(mine[5]), -7));
  to[8] = u32(__dp4a(i32(mine[4]), i32(mine[5]), -7));
  to[9] = u32(__float2int_rn(__int_as_float(i32(mine[6]))));
  const u32 a[4] = {mine[7], mine[8], mine[9], mine[10]}, b[2] = {mine[11], mine[12]};
  i32 d[4] = {1, 2, 3, 4};
  mma_s8(d, a, b);
#pragma unroll
  for (int i = 0; i < 4; ++i) to[10 + i] = u32(d[i]);
  to[14] = permute(mine[4], mine[5], mine[13]);
  const u32 across = __shfl_xor_sync(kAllLanes, mine[4], 5), below = __shfl_down_sync(kAllLanes, mine[4], 3);
  const u32 picked = __shfl_sync(kAllLanes, mine[4], (lane * 7u) & 31u);
  to[15] = select_bits(mine[14], across ^ (below << 1) ^ (picked << 2), mine[5]);
}
