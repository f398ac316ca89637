// The kernels' entry points (listed in entries.cuh): one source for NVRTC, nvcc, and a C++ compiler that runs them on a CPU.
#include "attention.cuh"
#include "batch.cuh"
#include "dense.cuh"
#include "layer.cuh"
#include "latent.cuh"
#include "linear.cuh"
#include "reading.cuh"
#include "recurrence.cuh"
#include "route.cuh"
#include "self_test.cuh"

#define HB_ENTRIES_OF_TIER(T)                                                                                    \
  HB_KERNEL(128 * kSplit, 3) hb_gate_up_##T(Pairs pairs, const ActGroup* x, ActGroup* h, Shape s, Variant a) {      \
    gate_up<T>(pairs, x, h, s, a);                                                                               \
  }                                                                                                              \
  HB_KERNEL(128, 6) hb_down_##T(Pairs pairs, const ActGroup* h, float* y, Shape s) { down<T>(pairs, h, y, s); }     \
  HB_KERNEL(kBatchThreads, 3)                                                                                       \
  hb_batch_gate_up_##T(Tiles tiles, const ActGroup* x, ActGroup* h, Shape s, Variant a) {                        \
    batch_gate_up<T>(tiles, x, h, s, a);                                                                         \
  }                                                                                                              \
  HB_KERNEL(kBatchThreads, 3) hb_batch_down_##T(Tiles tiles, const ActGroup* h, float* y, Shape s) {                \
    batch_down<T>(tiles, h, y, s);                                                                               \
  }

HB_ENTRIES_OF_TIER(2)
HB_ENTRIES_OF_TIER(3)
HB_ENTRIES_OF_TIER(4)
HB_ENTRIES_OF_TIER(5)
HB_ENTRIES_OF_TIER(6)
HB_ENTRIES_OF_TIER(8)
HB_KERNEL(128 * kSplit, 3) hb_gate_up_16(Pairs pairs, const float* x, float* h, Shape s, Variant a) {
  gate_up_bf16(pairs, x, h, s, a);
}
HB_KERNEL(128, 6) hb_down_16(Pairs pairs, const float* h, float* y, Shape s) { down_bf16(pairs, h, y, s); }
HB_KERNEL(256, 4) hb_quantize(const float* x, ActGroup* out, u32 groups) { quantize(x, out, groups); }
HB_KERNEL(kNormThreads, 4)
hb_rms_norm(const float* x, const float* weight, float epsilon, float* out, ActGroup* groups, u32 hidden) {
  rms_norm(x, weight, epsilon, out, groups, hidden);
}
HB_KERNEL(256, 4) hb_combine(const float* y, const float* weights, float* out, u32 hidden, u32 top_k) {
  combine(y, weights, out, hidden, top_k);
}
HB_KERNEL(32, 8) hb_route(const float* logits, RouterRule rule, RouterTensors of, i32* ids, float* weights) {
  route(logits, rule, of, ids, weights);
}

// the trunk
#define HB_LINEAR_CODES(BITS, NAME, TOKENS, BLOCKS)                                                              \
  HB_KERNEL(256, BLOCKS)                                                                                         \
  hb_linear_q##BITS##_##NAME(const float* x, const u8* codes, const float* scales, const float* bias, float* y, Linear s) { \
    linear_codes<BITS, TOKENS>(x, codes, scales, bias, y, s);                                                    \
  }
HB_LINEAR_CODES(8, one, 1, 6)
HB_LINEAR_CODES(8, many, kMany, 4)
HB_LINEAR_CODES(4, one, 1, 6)
HB_LINEAR_CODES(4, many, kMany, 4)
HB_KERNEL(256, 4) hb_linear_f32_one(const float* x, const float* w, const float* bias, float* y, Linear s) {
  linear_float<1>(x, w, bias, y, s);
}
HB_KERNEL(256, 3) hb_linear_f32_many(const float* x, const float* w, const float* bias, float* y, Linear s) {
  linear_float<kMany>(x, w, bias, y, s);
}
HB_KERNEL(kNormThreads, 4)
hb_add_norm(float* x, const float* more, const float* weight, const float* bias, float epsilon, float* out, u32 width,
            u32 stride) {
  add_norm(x, more, weight, bias, epsilon, out, width, stride);
}
HB_KERNEL(kNormThreads, 4) hb_join(float* resid, const float* y, Join s) { join(resid, y, s); }
HB_KERNEL(kNormThreads, 4) hb_gate_norm(float* y, const float* z, const float* weight, Gated s) { gate_norm(y, z, weight, s); }
HB_KERNEL(32, 8)
hb_place_heads(float* qkv, const float* gammas, const float* cos, const float* sin, const i32* past, float* keys,
               float* values, Heads s) {
  place_heads(qkv, gammas, cos, sin, past, keys, values, s);
}
HB_KERNEL(256, 3)
hb_attend(const float* qkv, const float* keys, const float* values, const float* sinks, const i32* past, float* out, Attend s) {
  attend<kHeadParts>(qkv, keys, values, sinks, past, out, s);
}
HB_KERNEL(256, 3)
hb_attend_wide(const float* qkv, const float* keys, const float* values, const float* sinks, const i32* past, float* out,
               Attend s) {
  attend<kWideHeadParts>(qkv, keys, values, sinks, past, out, s);
}
HB_KERNEL(32, 8)
hb_place_latent(const float* q, const float* low, const float* cos, const float* sin, const i32* past, float* queries,
                float* cache, Latent s) {
  place_latent(q, low, cos, sin, past, queries, cache, s);
}
HB_KERNEL(256, 4)
hb_convolve(const float* x, const float* taps, u32 tap_row, const float* bias, float* states, const Passage* passage,
            float* out, Taps s) {
  convolve(x, taps, tap_row, bias, states, passage, out, s);
}
#define HB_RECUR(NAME, RULE) \
  HB_KERNEL(kStateWarps * kWarp, 2) hb_recur_##NAME(RecurrenceAt at, const Passage* passage, Recurrence s) { recur<RULE>(at, passage, s); }
HB_RECUR(gated_delta, kGatedDelta)
HB_RECUR(kimi_delta, kKimiDelta)
HB_RECUR(mamba2, kMamba2)
HB_KERNEL(256, 4) hb_mlp_hidden(const float* in, float* h, u32 inter, u32 gated, Variant a) {
  mlp_hidden(in, h, inter, gated, a);
}
HB_KERNEL(256, 4) hb_add(float* into, const float* more, u32 n) { add_to(into, more, n); }
HB_KERNEL(256, 4) hb_gate_rows(float* y, const float* gates, u32 hidden) { gate_rows(y, gates, hidden); }

HB_KERNEL(kReadThreads, 4) hb_read(const u8* from, u32 units, u32* sums) { read_words(from, units, sums); }
HB_KERNEL(32, 8) hb_self_test(const u32* in, u32* out) { self_test(in, out); }
