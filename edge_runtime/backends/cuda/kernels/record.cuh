// Where the parts of an expert record lie (docs/format.md, section 1), and the form of quantised activations.
#pragma once
#include "platform.cuh"

constexpr u32 kGroup = 32;          // inputs under one scale and minimum
constexpr u32 kPanelRows = 16;      // output rows of a panel
constexpr u32 kRecordHeader = 64;
constexpr u32 kPanelMinima = 64;    // in a panel's metadata: float row_scale[16], then float row_min[16],
constexpr u32 kPanelTables = 128;   // then u8 table[16][4],
constexpr u32 kPanelMeta = 192;     // then for each group u8 scale[16], u8 min[16]
constexpr u32 kGroupMeta = 32;
constexpr u32 kGroupPlane = 128;    // two bits of 16 rows x 32 inputs

// 32 activations of one token as int8, with what the minimum term needs.
struct __align__(16) ActGroup {
  i32 q[8];         // four int8 each
  float scale;      // max |x| / 127; NaN if an input is not finite
  float scale_sum;  // scale * sum
  i32 sum;          // of the int8
  i32 unused;
};

// Sizes of a layer's experts. Without a gate matrix a record has up panels alone in front of the down panels.
struct Shape {
  u32 hidden, inter, top_k, gated, has_bias;
};

// One panel of a progressive record.
template <int TIER> struct Panel {
  const u8* meta;
  const u8* plane[TIER / 2];
};

// Panels that make 32 hidden units: gate, up, gate, up, or up, up.
HB_DEV u32 panels_a_chunk(const Shape& s) { return s.gated ? 4u : 2u; }
HB_DEV u32 panels_in(const Shape& s) { return panels_a_chunk(s) * (s.inter / kGroup); }

// Panel `index` of those in file order: gate and up panels, or the down panels behind them.
HB_DEV u64 panel_offset(const Shape& s, bool is_down, u32 index, u32 fixed, u32 a_group) {
  const u64 in = fixed + u64(s.hidden / kGroup) * a_group, down = fixed + u64(s.inter / kGroup) * a_group;
  return is_down ? panels_in(s) * in + index * down : index * in;
}

template <int TIER> HB_DEV Panel<TIER> find_panel(const u64* segments, const Shape& s, bool is_down, u32 index) {
  const u8* base = reinterpret_cast<const u8*>(segments[0]) + kRecordHeader;
  const u64 plane = panel_offset(s, is_down, index, 0, kGroupPlane);
  const u64 metadata = panel_offset(s, true, s.hidden / kPanelRows, kPanelMeta, kGroupMeta);
  Panel<TIER> p;
  p.meta = base + panel_offset(s, is_down, index, kPanelMeta, kGroupMeta);
  p.plane[0] = base + metadata + plane;
#pragma unroll
  for (int k = 1; k < TIER / 2; ++k) p.plane[k] = reinterpret_cast<const u8*>(segments[k]) + plane;
  return p;
}

// Float32 biases behind plane 0, or behind a bfloat16 record's panels: gate [I] (where there is one), up [I], down [D].
HB_DEV const u8* find_biases(const u64* segments, const Shape& s, bool is_bf16) {
  const u8* base = reinterpret_cast<const u8*>(segments[0]);
  const u32 panels = s.hidden / kPanelRows;
  if (is_bf16) return base + panel_offset(s, true, panels, 0, kGroup * kPanelRows * 2);
  return base + kRecordHeader + panel_offset(s, true, panels, kPanelMeta, kGroupMeta + kGroupPlane);  // metadata, plane 0
}

// A panel of a bfloat16 record: for each input its 16 rows.
HB_DEV const u8* find_panel_bf16(const u64* segments, const Shape& s, bool is_down, u32 index) {
  return reinterpret_cast<const u8*>(segments[0]) + panel_offset(s, is_down, index, 0, kGroup * kPanelRows * 2);
}
