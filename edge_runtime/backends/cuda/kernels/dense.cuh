// What lies between the trunk's products: norms of a residual stream, activations, sums.
#pragma once
#include "activation.cuh"
#include "layer.cuh"

// grid (rows), kNormThreads threads: x += more (where there is any), out = weight x / sqrt(mean(x^2) + epsilon).
// Rows of x and out lie `stride` apart, those of more `width`; out may be x.
HB_DEV void add_norm(float* x, const float* more, const float* weight, float epsilon, float* out, u32 width, u32 stride) {
  HB_SHARED(float, squares, [kNormThreads / kWarp]);
  float* row = x + u64(blockIdx.x) * stride;
  float sum = 0;
  for (u32 i = threadIdx.x; i < width; i += kNormThreads) {
    const float value = more ? row[i] + more[u64(blockIdx.x) * width + i] : row[i];
    row[i] = value;
    sum = fmaf(value, value, sum);
  }
  sum = sum_of_warp(sum);
  if (threadIdx.x % kWarp == 0) squares[threadIdx.x / kWarp] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (u32 w = 0; w < kNormThreads / kWarp; ++w) total += squares[w];
  const float factor = 1.0f / sqrtf(total / float(width) + epsilon);
  for (u32 i = threadIdx.x; i < width; i += kNormThreads) out[u64(blockIdx.x) * stride + i] = row[i] * factor * weight[i];
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
