// Layers that keep a state of fixed size: a causal convolution over a few tokens, and recurrences behind it.
//
// States are read from one slot of a sequence's and written to others (edge_runtime/backends/cpu/trunk/recurrent.py says
// why), whose numbers lie in device memory, so that launches of a token do not change with it. Tokens go one after the
// other, so a token's bits do not depend on how a prompt is cut.
#pragma once
#include "attention.cuh"

constexpr u32 kMostStops = 3;

// Where a chunk's states come from and where they go: after `tokens[i]` tokens to slot `slots[i]`.
struct Passage {
  i32 from, stops, tokens[kMostStops], slots[kMostStops];
};

HB_DEV float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }
HB_DEV float softplus(float v) { return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v))); }

// A row of x: `channels` inputs from number `at` on. Gated: three parts b, c, v of `channels`, whose inputs are b v, and
// whose outputs are multiplied by c.
struct Taps {
  u32 channels, kernel, tokens, row, at, gated, silu;
  u32 slot;  // numbers of a slot
};

HB_DEV float tap_input(const float* x, const Taps& s, u32 token, u32 channel) {
  const float* row = x + (u64(token) * s.row + s.at + channel);
  return s.gated ? row[0] * row[2u * s.channels] : row[0];
}
// The input of a token of the chunk, or below 0 of those before it: state [kernel - 1, channels].
HB_DEV float tap_value(const float* x, const float* state, const Taps& s, i32 token, u32 channel) {
  const i32 kept = i32(s.kernel) - 1;
  return token < 0 ? state[u64(kept + token) * s.channels + channel] : tap_input(x, s, u32(token), channel);
}

// grid (ceil(channels / 256), T + kMostStops (kernel - 1)), 256 threads: blocks y < T compute out [T, channels], the others
// write rows of new states. taps [kernel, channels], the oldest token's first, rows `tap_row` numbers apart; bias or null.
HB_DEV void convolve(const float* x, const float* taps, u32 tap_row, const float* bias, float* states,
                     const Passage* passage, float* out, const Taps& s) {
  const u32 channel = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, kept = s.kernel - 1u;
  if (channel >= s.channels) return;
  const float* state = states + u64(passage->from) * s.slot;
  if (y >= s.tokens) {
    const u32 stop = (y - s.tokens) / kept, row = (y - s.tokens) % kept;
    if (stop >= u32(passage->stops)) return;
    const i32 token = passage->tokens[stop] - i32(kept) + i32(row);
    states[u64(passage->slots[stop]) * s.slot + u64(row) * s.channels + channel] = tap_value(x, state, s, token, channel);
    return;
  }
  float sum = bias ? bias[channel] : 0.0f;
  for (u32 j = 0; j < s.kernel; ++j)
    sum = fmaf(taps[u64(j) * tap_row + channel], tap_value(x, state, s, i32(y) - i32(kept) + i32(j), channel), sum);
  if (s.silu) sum *= sigmoid(sum);
  if (s.gated) sum *= x[u64(y) * s.row + s.at + s.channels + channel];
  out[u64(y) * s.channels + channel] = sum;
}

enum Rule : int { kGatedDelta = 0, kKimiDelta = 1, kMamba2 = 2 };

constexpr u32 kKeyParts = 8;  // keys of a state's column a warp has
constexpr u32 kStateWarps = 16;
constexpr u32 kMostKeyDim = kKeyParts * kStateWarps;

// mixed [T, row]: queries, keys and values of a token begin at numbers q, k and v. gates [T, gate_row], from number `gate`
// on one number a head, or one a key; rates [T, rate_row], one a head from number 0.
struct Recurrence {
  u32 heads, key_heads, key_dim, value_dim, tokens;
  u32 row, q, k, v;
  u32 gate_row, gate, rate_row;
  u32 slot;  // numbers of a slot
};
// Vectors of a layer: decay, negative, and bias of what forgets, by head or by key; skip by head (Mamba-2) or null.
struct RecurrenceAt {
  const float *mixed, *gates, *rates, *decay, *dt_bias, *skip;
  float *states, *out;  // state [H, key_dim, value_dim]; out [T, H, value_dim]
};

// A warp: a head's key or query to shared memory, divided by its length and multiplied by `scale` where the rule does.
template <int RULE> HB_DEV void take_key(const float* from, float* to, u32 dim, float scale) {
  const u32 lane = threadIdx.x % kWarp;
  float squares = 0;
  for (u32 i = lane; i < dim; i += kWarp) squares = fmaf(from[i], from[i], squares);
  squares = sum_of_warp(squares);
  const float factor = RULE == kMamba2 ? 1.0f : scale / sqrtf(squares + 1e-6f);
  for (u32 i = lane; i < dim; i += kWarp) to[i] = from[i] * factor;
}

// Of a column of a head's state a thread has every sixteenth key, from its warp's number on.
HB_DEV void load_keys(const float* from, const Recurrence& s, u32 warp, bool has, float (&state)[kKeyParts]) {
#pragma unroll
  for (u32 i = 0; i < kKeyParts; ++i) {
    const u32 key = warp + kStateWarps * i;
    state[i] = has && key < s.key_dim ? from[u64(key) * s.value_dim] : 0.0f;
  }
}
HB_DEV void store_keys(const float (&state)[kKeyParts], const Recurrence& s, u32 warp, bool has, float* to) {
#pragma unroll
  for (u32 i = 0; i < kKeyParts; ++i) {
    const u32 key = warp + kStateWarps * i;
    if (has && key < s.key_dim) to[u64(key) * s.value_dim] = state[i];
  }
}
// Forgets, and gives what the keys recall.
HB_DEV float forget(const float* kept, const float* keys, const Recurrence& s, u32 warp, float (&state)[kKeyParts]) {
  float sum = 0;
#pragma unroll
  for (u32 i = 0; i < kKeyParts; ++i) {
    const u32 key = warp + kStateWarps * i;
    if (key >= s.key_dim) continue;
    state[i] *= kept[key];
    sum = fmaf(state[i], keys[key], sum);
  }
  return sum;
}
// Adds a change, and gives what the queries read.
HB_DEV float add_change(const float* keys, float change, const float* queries, const Recurrence& s, u32 warp,
                        float (&state)[kKeyParts]) {
  float sum = 0;
#pragma unroll
  for (u32 i = 0; i < kKeyParts; ++i) {
    const u32 key = warp + kStateWarps * i;
    if (key >= s.key_dim) continue;
    state[i] = fmaf(keys[key], change, state[i]);
    sum = fmaf(state[i], queries[key], sum);
  }
  return sum;
}

// grid (H, ceil(value_dim / 32)), 512 threads: 32 columns of a head's state, of which a warp has every sixteenth key.
// S <- kept S;  S <- S + k change^T, change = rate (v - S^T k), or step v;  out = S^T q, plus skip v.
template <int RULE> HB_DEV void recur(const RecurrenceAt& at, const Passage* passage, const Recurrence& s) {
  HB_SHARED(float, keys, [kMostKeyDim]);
  HB_SHARED(float, queries, [kMostKeyDim]);
  HB_SHARED(float, kept, [kMostKeyDim]);
  HB_SHARED(float, recalled, [kStateWarps][kWarp]);
  HB_SHARED(float, read, [kStateWarps][kWarp]);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, head = blockIdx.x, column = blockIdx.y * kWarp + lane;
  const u32 key_head = head / (s.heads / s.key_heads), value_dim = s.value_dim;
  const bool has = column < value_dim;
  const u64 place = u64(head) * s.key_dim * value_dim + column;
  float state[kKeyParts];
  load_keys(at.states + (u64(passage->from) * s.slot + place), s, warp, has, state);
  u32 stop = 0;
  for (u32 t = 0; t < s.tokens; ++t) {
    const float* row = at.mixed + u64(t) * s.row;
    const float* gates = at.gates + (u64(t) * s.gate_row + s.gate);
    if (warp == 0) take_key<RULE>(row + s.k + key_head * s.key_dim, keys, s.key_dim, 1.0f);
    if (warp == 1) take_key<RULE>(row + s.q + key_head * s.key_dim, queries, s.key_dim, 1.0f / sqrtf(float(s.key_dim)));
    float step = 0;
    if (RULE != kKimiDelta) step = softplus(gates[head] + at.dt_bias[head]);
    if (warp == 2)
      for (u32 i = lane; i < s.key_dim; i += kWarp) {
        const u32 own = head * s.key_dim + i;
        kept[i] = RULE == kKimiDelta ? expf(at.decay[own] * softplus(gates[own] + at.dt_bias[own])) : expf(at.decay[head] * step);
      }
    __syncthreads();
    const float value = has ? row[s.v + head * value_dim + column] : 0.0f;
    float change = step * value;
    const float sum = forget(kept, keys, s, warp, state);
    if (RULE != kMamba2) {
      recalled[warp][lane] = sum;
      __syncthreads();
      float all = 0;
#pragma unroll
      for (u32 w = 0; w < kStateWarps; ++w) all += recalled[w][lane];
      change = sigmoid(at.rates[u64(t) * s.rate_row + head]) * (value - all);
    }
    read[warp][lane] = add_change(keys, change, queries, s, warp, state);
    __syncthreads();  // behind it nobody reads keys and queries of this token
    if (warp == 0 && has) {
      float all = at.skip ? at.skip[head] * value : 0.0f;
#pragma unroll
      for (u32 w = 0; w < kStateWarps; ++w) all += read[w][lane];
      at.out[(u64(t) * s.heads + head) * value_dim + column] = all;
    }
    if (stop >= u32(passage->stops) || t + 1u != u32(passage->tokens[stop])) continue;
    store_keys(state, s, warp, has, at.states + (u64(passage->slots[stop]) * s.slot + place));
    ++stop;
  }
}
