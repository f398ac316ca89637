// The names of all entry points, for whoever needs the list: HB_KERNELS(M) is M(name) for each.
#pragma once

#define HB_KERNELS_OF_TIER(M, T) M(hb_gate_up_##T) M(hb_down_##T) M(hb_batch_gate_up_##T) M(hb_batch_down_##T)
#define HB_EXPERT_KERNELS(M)                                                                            \
  HB_KERNELS_OF_TIER(M, 2) HB_KERNELS_OF_TIER(M, 4) HB_KERNELS_OF_TIER(M, 6) HB_KERNELS_OF_TIER(M, 8)   \
  HB_KERNELS_OF_TIER(M, 3) HB_KERNELS_OF_TIER(M, 5) M(hb_gate_up_16) M(hb_down_16)
#define HB_LAYER_KERNELS(M) \
  M(hb_quantize) M(hb_rms_norm) M(hb_combine) M(hb_route) M(hb_read) M(hb_self_test)
#define HB_TRUNK_KERNELS(M)                                                                                     \
  M(hb_linear_q8_one) M(hb_linear_q8_many) M(hb_linear_q4_one) M(hb_linear_q4_many) M(hb_linear_f32_one)        \
  M(hb_linear_f32_many) M(hb_add_norm) M(hb_place_heads) M(hb_attend) M(hb_mlp_hidden) M(hb_add) M(hb_gate_rows) \
  M(hb_attend_wide) M(hb_place_latent) M(hb_convolve) M(hb_recur_gated_delta) M(hb_recur_kimi_delta)              \
  M(hb_recur_mamba2) M(hb_join) M(hb_gate_norm)
#define HB_KERNELS(M) HB_EXPERT_KERNELS(M) HB_LAYER_KERNELS(M) HB_TRUNK_KERNELS(M)
