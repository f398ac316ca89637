// The panel loops, written once over a vector type V. Included by one translation unit per ISA.
//
// Everything sits in an unnamed namespace: the units are compiled with different flags, and a
// shared inline function would let the linker pick the AVX-512 copy for a machine without it.
#pragma once
#include <cstring>

#include "isa.hpp"
#include "layout.hpp"

namespace hobbit {
namespace {

// Tiers 2 and 4 of records whose codes stand for 4-bit floats are 3 and 5 here: scales are powers of two, and codes
// are looked up, 12 above what they mean.
template <int TIER> constexpr bool kFp4 = TIER == 3 || TIER == 5;
template <int TIER>
constexpr float kUnit = TIER == 2 ? 1.0f / 8 : TIER == 3 ? 1.0f / 4 : TIER <= 5 ? 1.0f : 1.0f / 14;
template <int TIER>
constexpr float kCodeOffset = TIER == 3 ? -48.0f : TIER == 5 ? -12.0f : TIER == 6 ? -6.0f : TIER == 8 ? -7.5f : 0.0f;

// Adds a group's products with two tokens to a slice's sums, where an instruction set takes tokens two by two.
template <class V, class Codes, int COUNT>
[[gnu::always_inline]] inline void add_pair(const Codes& codes, const ActGroup* const* tokens, size_t g,
                                            typename V::F scale, typename V::F offset, int s,
                                            typename V::F (*acc)[COUNT]) {
  typename V::F dots[2];
  V::dot_pair(codes, tokens[0][g], tokens[1][g], dots);
  for (int u = 0; u < 2; ++u) {
    const ActGroup& x = tokens[u][g];
    acc[u][s] = V::fma(V::mul(scale, dots[u]), V::set1(x.scale), acc[u][s]);
    acc[u][s] = V::fma(offset, V::set1(x.scale_sum), acc[u][s]);
  }
}

// V cuts the 16 rows into kSlices of V::F each; this walks slices FIRST .. FIRST + COUNT - 1.
// Per group g and row, with c the integer code:
//   y += x_scale * (a_g * dot(c, xq)) + (a_g * offset + b_g) * x_scale_sum
template <class V, int TIER, int TB, int FIRST, int COUNT>
inline void block_slices(const PanelRef& panel, const ActGroup* const* tokens, size_t groups, float* out,
                         size_t stride) {
  using F = typename V::F;
  constexpr int kRows = int(kPanelRows) / V::kSlices;
  F unit[COUNT], neg_min[COUNT], acc[TB][COUNT];
  typename V::Table table[COUNT];
  for (int s = 0; s < COUNT; ++s) {
    const float* rows = reinterpret_cast<const float*>(panel.meta) + kRows * (FIRST + s);
    unit[s] = V::mul(V::load(rows), V::set1(kUnit<TIER>));
    table[s] = V::load_table(panel.meta + kPanelTable + 4 * kRows * (FIRST + s));
    neg_min[s] = V::mul(V::load(rows + kPanelRows), V::set1(-1.0f));
    for (int t = 0; t < TB; ++t) acc[t][s] = V::set1(0.0f);
  }
  for (size_t g = 0; g < groups; ++g) {
    const uint8_t* meta = panel.meta + kPanelMeta + g * kGroupMeta;
    if (FIRST == 0)
      for (int k = 0; k < TIER / 2; ++k) V::prefetch(panel.plane[k] + g * kGroupPlane);
#pragma GCC unroll 4  // else the slices' arrays stay in memory
    for (int s = 0; s < COUNT; ++s) {
      const int row = kRows * (FIRST + s);
      const size_t at = g * kGroupPlane + size_t(4 * row);
      typename V::template Codes<TIER> codes;
      F first;  // the only token's dot product comes before anything else that needs registers
      constexpr bool kOnce = V::kDotOnce && TB == 1;
      if constexpr (kOnce)
        first = V::template dot_once<TIER>(panel.plane, at, table[s], tokens[0][g]);
      else
        V::unpack(codes, panel.plane, at, table[s]);
      F scale, offset;
      if constexpr (kFp4<TIER>) {
        scale = V::mul(unit[s], V::load_power(meta + row));
        offset = V::mul(scale, V::set1(kCodeOffset<TIER>));
      } else {
        scale = V::mul(unit[s], V::load_u8(meta + row));
        offset = V::mul(neg_min[s], V::load_u8(meta + kPanelRows + row));
      }
      if constexpr (TIER >= 6) offset = V::fma(scale, V::set1(kCodeOffset<TIER>), offset);
      if constexpr (V::kPairs && TB > 1) {
        V::pair_rows(codes);
        for (int t = 0; t < TB; t += 2) add_pair<V>(codes, tokens + t, g, scale, offset, s, acc + t);
      } else {
        for (int t = 0; t < TB; ++t) {
          const ActGroup& x = tokens[t][g];
          F dot;
          if constexpr (kOnce) dot = first; else dot = V::dot(codes, x);
          acc[t][s] = V::fma(V::mul(scale, dot), V::set1(x.scale), acc[t][s]);
          acc[t][s] = V::fma(offset, V::set1(x.scale_sum), acc[t][s]);
        }
      }
    }
  }
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < COUNT; ++s) V::store(out + size_t(t) * stride + kRows * (FIRST + s), acc[t][s]);
}

// One token reads the panel once, all slices together. With more tokens the unpacked codes should
// stay in registers, so an ISA with few of them takes its slices one after the other.
template <class V, int TIER, int TB, int FIRST = 0>
inline void block(const PanelRef& panel, const ActGroup* const* tokens, size_t groups, float* out, size_t stride) {
  constexpr int kCount = TB == 1 ? V::kSlices : V::kSlicesTogether;
  block_slices<V, TIER, TB, FIRST, kCount>(panel, tokens, groups, out, stride);
  if constexpr (FIRST + kCount < V::kSlices)
    block<V, TIER, TB, FIRST + kCount>(panel, tokens, groups, out, stride);
}

// Four accumulators per row (inputs i mod 4), added as (0+1)+(2+3): enough to hide latency.
template <class V, int TB>
inline void block_bf16(const uint16_t* weights, const float* const* tokens, size_t inputs,
                       float* out, size_t stride) {
  using F = typename V::F;
  constexpr int kRows = int(kPanelRows) / V::kSlices;
  F acc[TB][V::kSlices][4];
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < V::kSlices; ++s)
      for (int u = 0; u < 4; ++u) acc[t][s][u] = V::set1(0.0f);
  for (size_t i = 0; i < inputs; i += 4) {
    V::prefetch(reinterpret_cast<const uint8_t*>(weights + kPanelRows * i));
    for (int u = 0; u < 4; ++u)
      for (int s = 0; s < V::kSlices; ++s) {
        const F w = V::load_bf16(weights + kPanelRows * (i + size_t(u)) + kRows * s);
        for (int t = 0; t < TB; ++t)
          acc[t][s][u] = V::fma(w, V::set1(tokens[t][i + size_t(u)]), acc[t][s][u]);
      }
  }
  for (int t = 0; t < TB; ++t)
    for (int s = 0; s < V::kSlices; ++s) {
      const F* a = acc[t][s];
      V::store(out + size_t(t) * stride + kRows * s, V::add(V::add(a[0], a[1]), V::add(a[2], a[3])));
    }
}

// Splits `count` tokens into blocks of at most TB; `call(tb, first)` gets the block size as a type.
template <int N> struct Int { static constexpr int value = N; };

template <int TB, class Call>
inline void for_blocks(size_t count, Call&& call) {
  size_t first = 0;
  for (; count - first >= size_t(TB); first += size_t(TB)) call(Int<TB>(), first);
  if constexpr (TB > 1)
    for_blocks<TB / 2>(count - first, [&](auto tb, size_t at) { call(tb, first + at); });
}

template <class V, int TIER>
void panel_tier(const PanelRef& panel, const ActGroup* const* tokens, size_t count, size_t groups,
                float* out, size_t stride) {
  for_blocks<V::kTokenBlock>(count, [&](auto tb, size_t first) {
    block<V, TIER, decltype(tb)::value>(panel, tokens + first, groups, out + first * stride, stride);
  });
}

template <class V>
void panel_any(int tier, const PanelRef& panel, const ActGroup* const* tokens, size_t count,
               size_t groups, float* out, size_t stride) {
  switch (tier) {
    case 2: return panel_tier<V, 2>(panel, tokens, count, groups, out, stride);
    case 3: return panel_tier<V, 3>(panel, tokens, count, groups, out, stride);
    case 5: return panel_tier<V, 5>(panel, tokens, count, groups, out, stride);
    case 4: return panel_tier<V, 4>(panel, tokens, count, groups, out, stride);
    case 6: return panel_tier<V, 6>(panel, tokens, count, groups, out, stride);
    default: return panel_tier<V, 8>(panel, tokens, count, groups, out, stride);
  }
}

template <class V>
void panel_bf16(const uint16_t* weights, const float* const* tokens, size_t count, size_t inputs,
                float* out, size_t stride) {
  for_blocks<V::kTokenBlockBf16>(count, [&](auto tb, size_t first) {
    block_bf16<V, decltype(tb)::value>(weights, tokens + first, inputs, out + first * stride, stride);
  });
}

}  // namespace
}  // namespace hobbit
