// Experts of single tokens: one matrix-vector product for each (token, rank) pair, straight from the record's bytes.
#pragma once
#include "activation.cuh"
#include "dot_panel.cuh"

// Which expert each pair has, and where it lies. A pair of expert -1, or of an expert in slot -1, is not this launch's.
struct Pairs {
  const u64* segments;  // [S, 4] addresses
  const i32* slot_of;   // [E]
  const i32* experts;   // [P] = [T, K]
};
HB_DEV const u64* segments_of(const Pairs& pairs, u32 pair) {
  const i32 expert = pairs.experts[pair];
  const i32 slot = expert < 0 ? -1 : pairs.slot_of[expert];
  return slot < 0 ? nullptr : pairs.segments + 4u * u32(slot);
}

HB_DEV float load_float(const u8* p, u32 index) { return __int_as_float(i32(load4(p + 4u * index))); }

// Unit `unit` of an expert's hidden layer, from the sums of its gate and up rows.
HB_DEV float finish_unit(const Shape& s, const Variant& a, const u8* biases, u32 unit, float gate, float up) {
  if (s.has_bias) {
    up += load_float(biases, s.gated ? s.inter + unit : unit);
    if (s.gated) gate += load_float(biases, unit);
  }
  return hidden_unit(a, s.gated, gate, up);
}
HB_DEV float finish_output(const Shape& s, const u8* biases, u32 row, float sum) {
  return s.has_bias ? sum + load_float(biases, (s.gated ? 2u : 1u) * s.inter + row) : sum;
}

// Sums of a chunk's panels by split and panel: where two warps of one panel meet. Panels of a gated expert alternate.
typedef float PanelParts[kSplit][4][kPanelRows];
HB_DEV float row_sum(const PanelParts& parts, u32 panel, u32 row) {
  float sum = 0;
#pragma unroll
  for (u32 k = 0; k < kSplit; ++k) sum += parts[k][panel][row];
  return sum;
}

// One warp's hidden unit `lane` of a chunk of 32.
HB_DEV float chunk_unit(const PanelParts& parts, const Shape& s, const Variant& a, const u8* biases, u32 chunk) {
  const u32 lane = threadIdx.x % kWarp, half = lane / kPanelRows, row = lane % kPanelRows, step = s.gated ? 2u : 1u;
  const float up = row_sum(parts, step * half + step - 1u, row), gate = s.gated ? row_sum(parts, 2u * half, row) : 0.0f;
  return finish_unit(s, a, biases, kGroup * chunk + lane, gate, up);
}

// grid (I / 32, P), kSplit warps a panel of the chunk: 256 threads, or 128 without a gate. Writes group (pair, chunk).
template <int TIER>
HB_DEV void gate_up(const Pairs& pairs, const ActGroup* x, ActGroup* h, const Shape& s, const Variant& a) {
  HB_SHARED(float, parts, [kSplit][4][kPanelRows]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, chunk = blockIdx.x, pair = blockIdx.y;
  const u32 panels = panels_a_chunk(s), panel = warp % panels, split = warp / panels, groups = s.hidden / kGroup;
  const u64* segments = segments_of(pairs, pair);
  if (segments == nullptr) return;
  float y[4];
  dot_panel<TIER>(find_panel<TIER>(segments, s, false, panels * chunk + panel), x + u64(pair / s.top_k) * groups, groups,
                  split, y);
  if (lane < 4)
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[split][panel][4u * lane + i] = y[i];
  __syncthreads();
  if (warp != 0) return;
  quantize_group(chunk_unit(parts, s, a, find_biases(segments, s, false), chunk), h + u64(pair) * (s.inter / kGroup) + chunk);
}

// The same at tier 16: x and h are float32, [T, D] and [P, I].
HB_DEV void gate_up_bf16(const Pairs& pairs, const float* x, float* h, const Shape& s, const Variant& a) {
  HB_SHARED(float, parts, [kSplit][4][kPanelRows]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, chunk = blockIdx.x, pair = blockIdx.y;
  const u32 panels = panels_a_chunk(s), panel = warp % panels, split = warp / panels;
  const u64* segments = segments_of(pairs, pair);
  if (segments == nullptr) return;
  const float* const token[1] = {x + u64(pair / s.top_k) * s.hidden};
  float y[1][8];
  dot_panel_bf16<1>(find_panel_bf16(segments, s, false, panels * chunk + panel), token, s.hidden, split, y);
  if (lane < 2)
#pragma unroll
    for (int i = 0; i < 8; ++i) parts[split][panel][8u * lane + i] = y[0][i];
  __syncthreads();
  if (warp != 0) return;
  h[u64(pair) * s.inter + kGroup * chunk + lane] = chunk_unit(parts, s, a, find_biases(segments, s, true), chunk);
}

constexpr u32 kDownPanels = 2;  // panels of a block

// grid (ceil(D / 32), P), 128 threads. Writes y[pair, 32 rows].
template <int TIER> HB_DEV void down(const Pairs& pairs, const ActGroup* h, float* y, const Shape& s) {
  HB_SHARED(float, parts, [kSplit][4][kPanelRows]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, pair = blockIdx.y, groups = s.inter / kGroup;
  const u32 panel = warp % kDownPanels, split = warp / kDownPanels;
  const u64* segments = segments_of(pairs, pair);
  if (segments == nullptr) return;
  float sums[4];
  dot_panel<TIER>(find_panel<TIER>(segments, s, true, kDownPanels * blockIdx.x + panel), h + u64(pair) * groups, groups,
                  split, sums);
  if (lane < 4)
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[split][panel][4u * lane + i] = sums[i];
  __syncthreads();
  const u32 row = kDownPanels * kPanelRows * blockIdx.x + lane;
  if (warp == 0)
    y[u64(pair) * s.hidden + row] =
        finish_output(s, find_biases(segments, s, false), row, row_sum(parts, lane / kPanelRows, lane % kPanelRows));
}

HB_DEV void down_bf16(const Pairs& pairs, const float* h, float* y, const Shape& s) {
  HB_SHARED(float, parts, [kSplit][4][kPanelRows]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, pair = blockIdx.y;
  const u32 panel = warp % kDownPanels, split = warp / kDownPanels;
  const u64* segments = segments_of(pairs, pair);
  if (segments == nullptr) return;
  const float* const token[1] = {h + u64(pair) * s.inter};
  float sums[1][8];
  dot_panel_bf16<1>(find_panel_bf16(segments, s, true, kDownPanels * blockIdx.x + panel), token, s.inter, split, sums);
  if (lane < 2)
#pragma unroll
    for (int i = 0; i < 8; ++i) parts[split][panel][8u * lane + i] = sums[0][i];
  __syncthreads();
  const u32 row = kDownPanels * kPanelRows * blockIdx.x + lane;
  if (warp == 0)
    y[u64(pair) * s.hidden + row] =
        finish_output(s, find_biases(segments, s, true), row, row_sum(parts, lane / kPanelRows, lane % kPanelRows));
}
