// What lies between the trunk's products: norms of a residual stream, activations, sums.
#pragma once
#include "activation.cuh"
#include "layer.cuh"

// The sum over a block of kNormThreads threads, the same bits in every one; `parts` may be used again behind it.
HB_DEV float sum_of_block(float v, float* parts) {
  v = sum_of_warp(v);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (u32 w = 0; w < kNormThreads / kWarp; ++w) total += parts[w];
  __syncthreads();
  return total;
}

// grid (rows), kNormThreads threads: x += more (where there is any), out = weight x / sqrt(mean(x^2) + epsilon). With a
// bias it is LayerNorm: x less its mean in place of x, and the bias added. Rows of x and out lie `stride` apart, those of
// more `width`; out may be x.
HB_DEV void add_norm(float* x, const float* more, const float* weight, const float* bias, float epsilon, float* out,
                     u32 width, u32 stride) {
  HB_SHARED(float, parts, [kNormThreads / kWarp]);
  float *row = x + u64(blockIdx.x) * stride, *to = out + u64(blockIdx.x) * stride;
  float sum = 0, squares = 0;
  for (u32 i = threadIdx.x; i < width; i += kNormThreads) {
    const float value = more ? row[i] + more[u64(blockIdx.x) * width + i] : row[i];
    row[i] = value;
    sum += value;
    squares = fmaf(value, value, squares);
  }
  float mean = 0;
  if (bias) {
    mean = sum_of_block(sum, parts) / float(width);
    squares = 0;
    for (u32 i = threadIdx.x; i < width; i += kNormThreads) squares = fmaf(row[i] - mean, row[i] - mean, squares);
  }
  const float factor = 1.0f / sqrtf(sum_of_block(squares, parts) / float(width) + epsilon);
  for (u32 i = threadIdx.x; i < width; i += kNormThreads) {
    const float value = (row[i] - mean) * factor * weight[i];
    to[i] = bias ? value + bias[i] : value;
  }
}

// What the residual stream takes of a part's output y [T, D], or of zeros where that is null:
//   v = y;  v = rms(v) own + beside (where there is `own`);  v = rms(v) joint (where there is `joint`)
//   resid = (resid + scale v) by[0] (where there is `by`)
struct Join {
  const float *own, *beside, *joint, *by;
  u32 width;
  float scale, epsilon;
};
// grid (T), kNormThreads threads.
HB_DEV void join(float* resid, const float* y, const Join& s) {
  HB_SHARED(float, parts, [kNormThreads / kWarp]);
  const u64 first = u64(blockIdx.x) * s.width;
  float inner = 0, outer = 1.0f, squares = 0;
  if (s.own) {
    for (u32 i = threadIdx.x; y && i < s.width; i += kNormThreads) squares = fmaf(y[first + i], y[first + i], squares);
    inner = 1.0f / sqrtf(sum_of_block(squares, parts) / float(s.width) + s.epsilon);
  }
  for (u32 pass = s.joint ? 0u : 1u; pass < 2u; ++pass) {
    squares = 0;
    for (u32 i = threadIdx.x; i < s.width; i += kNormThreads) {
      float v = y ? y[first + i] : 0.0f;
      if (s.own) v = v * inner * s.own[i] + s.beside[first + i];
      if (pass == 0) {
        squares = fmaf(v, v, squares);
        continue;
      }
      if (s.joint) v *= outer * s.joint[i];
      v = fmaf(s.scale, v, resid[first + i]);
      resid[first + i] = s.by ? v * s.by[0] : v;
    }
    if (pass == 0) outer = 1.0f / sqrtf(sum_of_block(squares, parts) / float(s.width) + s.epsilon);
  }
}

// y [T, groups, width] normed within each group, by a weight [width] or, `by_group`, [groups, width], and multiplied by
// the activation of z, numbers `at` and on of rows `row` apart: before the norm, or behind it.
struct Gated {
  u32 width, groups, row, at, by_group, norm_first, is_silu;
  float epsilon;
};
HB_DEV float gate_of(float z, bool is_silu) {
  const float s = 1.0f / (1.0f + expf(-z));
  return is_silu ? z * s : s;
}
// grid (groups, T), kNormThreads threads; in place.
HB_DEV void gate_norm(float* y, const float* z, const float* weight, const Gated& s) {
  HB_SHARED(float, parts, [kNormThreads / kWarp]);
  const u32 group = blockIdx.x, token = blockIdx.y;
  float* row = y + (u64(token) * s.groups + group) * s.width;
  const float* gates = z + (u64(token) * s.row + s.at + u64(group) * s.width);
  float squares = 0;
  for (u32 i = threadIdx.x; i < s.width; i += kNormThreads) {
    if (!s.norm_first) row[i] *= gate_of(gates[i], s.is_silu);
    squares = fmaf(row[i], row[i], squares);
  }
  const float factor = 1.0f / sqrtf(sum_of_block(squares, parts) / float(s.width) + s.epsilon);
  for (u32 i = threadIdx.x; i < s.width; i += kNormThreads) {
    const float v = row[i] * factor * weight[s.by_group ? group * s.width + i : i];
    row[i] = s.norm_first ? v * gate_of(gates[i], s.is_silu) : v;
  }
}

// grid (ceil(I / 256), T), 256 threads: h [T, I] of gate and up side by side [T, 2 I], or of up alone [T, I].
HB_DEV void mlp_hidden(const float* in, float* h, u32 inter, u32 gated, const Variant& a) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= inter) return;
  const float* row = in + u64(blockIdx.y) * (gated ? 2u : 1u) * inter;
  h[u64(blockIdx.y) * inter + i] = gated ? hidden_unit(a, true, row[i], row[inter + i]) : hidden_unit(a, false, 0.0f, row[i]);
}

// grid (ceil(n / 256)), 256 threads.
HB_DEV void add_to(float* into, const float* more, u32 n) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) into[i] += more[i];
}

// grid (ceil(D / 256), T), 256 threads: each row of y times the sigmoid of one number.
HB_DEV void gate_rows(float* y, const float* gates, u32 hidden) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < hidden) y[u64(blockIdx.y) * hidden + i] *= 1.0f / (1.0f + expf(-gates[blockIdx.y]));
}
