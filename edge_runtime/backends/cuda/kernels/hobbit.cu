// The kernels' entry points (listed in entries.cuh): one source for NVRTC, nvcc, and a C++ compiler that runs them on a CPU.
#include "batch.cuh"
#include "layer.cuh"
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
HB_ENTRIES_OF_TIER(4)
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
HB_KERNEL(32, 8) hb_self_test(const u32* in, u32* out) { self_test(in, out); }
