// What lies between an expert's matrices: the activation of a hidden unit, and int8 groups of 32.
#pragma once
#include "record.cuh"

enum Activation : u32 { kSilu = 0, kGeluTanh = 1, kRelu2 = 2 };

// edge_runtime/base/spec/mlp.py, ExpertSpec. `limit` is infinity where nothing is clamped. NaN passes through all of it.
struct Variant {
  u32 activation;
  float limit, alpha, up_offset;
};

HB_DEV float activate(const Variant& a, float v) {
  if (a.activation == kRelu2) return v < 0.0f ? 0.0f : v * v;
  // GELU in its tanh form is v sigmoid(2 sqrt(2 / pi) (v + 0.044715 v^3))
  const float s = a.activation == kSilu ? a.alpha * v : v * fmaf(0.07135481627f, v * v, 1.595769122f);
  return v / (1.0f + expf(-s));
}

HB_DEV float hidden_unit(const Variant& a, bool gated, float gate, float up) {
  if (!gated) return activate(a, up);
  const float g = gate > a.limit ? a.limit : gate;
  const float u = up > a.limit ? a.limit : up < -a.limit ? -a.limit : up;
  return activate(a, g) * (u + a.up_offset);
}

// A warp's 32 values as one group. A value that is not finite makes the scale NaN, so that it shows in the output.
HB_DEV void quantize_group(float value, ActGroup* out) {
  const u32 lane = threadIdx.x % kWarp;
  i32 top = __float_as_int(value) & 0x7fffffff;  // magnitudes order as integers, with infinity and NaN on top
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) {
    const i32 other = __shfl_xor_sync(kAllLanes, top, mask);
    top = other > top ? other : top;
  }
  const float peak = __int_as_float(top);
  // Below 1e-30 the inverse could overflow; such a group is zero for any practical purpose.
  const bool finite = top < 0x7f800000, used = finite && peak > 1e-30f;
  const i32 q = used ? __float2int_rn(value * (127.0f / peak)) : 0;
  i32 sum = q;
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) sum += __shfl_xor_sync(kAllLanes, sum, mask);
  u32 word = u32(q) & 255u;  // four lanes' bytes into the first one's word
  word |= __shfl_down_sync(kAllLanes, word, 1) << 8;
  word = (word & 0xffffu) | (__shfl_down_sync(kAllLanes, word, 2) << 16);
  if ((lane & 3u) == 0) out->q[lane >> 2] = i32(word);
  if (lane == 0) {
    const float scale = used ? peak / 127.0f : finite ? 0.0f : __int_as_float(0x7fc00000);
    out->scale = scale;
    out->scale_sum = scale * float(sum);
    out->sum = sum;
    out->unused = 0;
  }
}
