// Experts of several tokens: a panel's codes are unpacked once for a tile of tokens and multiplied on int8 tensor cores.
//
// A group's plane is the A tile of mma.m16n8k32 as it lies: lane 4 g + t needs field t of the words of rows g and g + 8.
// A block has one warp for each of the eight lanes of decode.cuh's sums and adds in the same order, so that a token gets
// the same bits alone and in company.
#pragma once
#include "decode.cuh"

constexpr u32 kColumns = 8;   // tokens of one mma
constexpr u32 kTiles = 2;     // of those in a tile
constexpr u32 kTileTokens = kColumns * kTiles;
constexpr u32 kBatchThreads = kLaneGroups * kWarp;

// Pairs of one expert that go through its weights together: at most kTileTokens.
struct Tile {
  i32 slot, first, count;  // pairs members[first .. first + count - 1]
};
struct Tiles {
  const u64* segments;  // [S, 4] addresses
  const Tile* tiles;
  const i32* members;   // pairs, those of a tile side by side
};
// The pair in a column; columns behind the last one repeat it and are not written.
HB_DEV u32 pair_in(const Tiles& tiles, const Tile& tile, u32 column) {
  return u32(tiles.members[u32(tile.first) + (column < u32(tile.count) ? column : u32(tile.count) - 1u)]);
}

// A fragments of one group: a[v][i] is row g + 8 i, inputs 16 v + 4 t .. + 3. `coarse` is of planes 0 and 1, `fine` of 2 and 3.
struct Fragments {
  u32 coarse[4], fine[4];
};
HB_DEV u32 look_up_field(u32 word, u32 table, u32 field) {
  const u32 codes = (word >> (2u * (field & 1u))) & 0x33333333u;  // fields f and f + 2 of each byte as its nibbles
  const u32 low = permute(table, 0, codes), high = permute(table, 0, codes >> 16);
  return permute(low, high, field < 2 ? 0x6420 : 0x7531);
}
template <int TIER> HB_DEV Fragments unpack(const u32 (&words)[TIER / 2], const u32 (&table)[2], u32 lane) {
  const u32 g = lane >> 2, t = lane & 3u;
  Fragments f = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    u32 field[4] = {}, word[TIER / 2];
#pragma unroll
    for (int k = 0; k < TIER / 2; ++k) {
      word[k] = __shfl_sync(kAllLanes, words[k], 16u * (i >> 1) + 8u * (i & 1) + g);
      field[k] = (word[k] >> (2u * t)) & 0x03030303u;
    }
    f.coarse[i] = kHasTable<TIER> ? look_up_field(word[0], table[i & 1], t) : (field[0] << 2) | field[1];
    if (TIER == 5) f.coarse[i] = look_up_float4(permute(f.coarse[i] | (f.coarse[i] >> 4), 0, 0x4420));
    f.fine[i] = (field[2] << 2) | field[3];
  }
  return f;
}

// Sums of one panel and a tile: element i of a column tile is row g + 8 (i / 2), column 2 t + i % 2.
struct TileSum {
  float codes[kTiles][4], minima[kTiles][4];
};

template <int TIER> struct PanelBatch {
  const Panel<TIER> panel;
  const ActGroup* x;  // activations of all pairs or tokens
  u32 lane;
  u32 operand[kTiles] = {};    // first group of the token whose codes this lane brings to the mma
  u32 result[kTiles][2] = {};  // and of the two whose sums it gets
  u32 table[2] = {};           // tiers 2 and 3: of rows g, g + 8

  HB_DEV void add(u32 group, TileSum& sum) const {
    u32 words[TIER / 2];
#pragma unroll
    for (int k = 0; k < TIER / 2; ++k) words[k] = load4(panel.plane[k] + kGroupPlane * group + 4u * lane);
    const u32 meta = lane < 8 ? load4(panel.meta + kPanelMeta + kGroupMeta * group + 4u * lane) : 0u;
    const Fragments a = unpack<TIER>(words, table, lane);
    i32 scale[2], least[2];  // rows g, g + 8
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const u32 from = 2u * r + (lane >> 4), shift = 8u * ((lane >> 2) & 3u);
      scale[r] = i32((__shfl_sync(kAllLanes, meta, from) >> shift) & 255u);
      least[r] = i32((__shfl_sync(kAllLanes, meta, 4u + from) >> shift) & 255u);
    }
#pragma unroll
    for (int n = 0; n < int(kTiles); ++n) add_columns(group, n, a, scale, least, sum);
  }

  HB_DEV void add_columns(u32 group, int n, const Fragments& a, const i32 (&scale)[2], const i32 (&least)[2],
                          TileSum& sum) const {
    const ActGroup& mine = x[operand[n] + group];
    const u32 b[2] = {u32(mine.q[lane & 3u]), u32(mine.q[4u + (lane & 3u)])};
    i32 codes[4] = {};
    mma_s8(codes, a.coarse, b);
    if (TIER >= 6) {
#pragma unroll
      for (int i = 0; i < 4; ++i) codes[i] *= kFine;
      mma_s8(codes, a.fine, b);
    }
    const float4 of[2] = {*reinterpret_cast<const float4*>(&x[result[n][0] + group].scale),
                          *reinterpret_cast<const float4*>(&x[result[n][1] + group].scale)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4& act = of[i & 1];  // scale, scale_sum, sum
      const i32 code = center_codes<TIER>(codes[i], __float_as_int(act.z));
      sum.codes[n][i] = fmaf(scale_code<TIER>(code, u32(scale[i >> 1])), act.x, sum.codes[n][i]);
      if (!kIsFloat4<TIER>) sum.minima[n][i] = fmaf(float(least[i >> 1]), act.y, sum.minima[n][i]);
    }
  }
};

typedef float TileParts[kSplit][kLaneGroups][kTileTokens][kPanelRows];

// This warp's part of a panel's sums, for both splits, to shared memory.
template <int TIER> HB_DEV void add_panel(const PanelBatch<TIER>& batch, u32 groups, TileParts& parts) {
  const u32 warp = warp_index(), lane = batch.lane, g = lane >> 2, t = lane & 3u;
#pragma unroll 1  // one split's sums at a time: both would not fit the registers
  for (u32 k = 0; k < kSplit; ++k) {
    TileSum sum = {};
#pragma unroll 1
    for (u32 at = kLaneGroups * k + warp; at < groups; at += kStride) batch.add(at, sum);
#pragma unroll
    for (int n = 0; n < int(kTiles); ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 row = g + 8u * (i >> 1), column = kColumns * n + 2u * t + (i & 1);
        const float scale = load_float(batch.panel.meta, row), least = load_float(batch.panel.meta + kPanelMinima, row);
        parts[k][warp][column][row] = finish_row<TIER>(sum.codes[n][i], sum.minima[n][i], scale, least);
      }
  }
}

// One row of one column: the eight warps' parts as the tree that add_over_lanes makes, the splits in order.
HB_DEV float add_parts(const TileParts& parts, u32 column, u32 row) {
  float sum = 0;
#pragma unroll
  for (u32 k = 0; k < kSplit; ++k) {
    float p[kLaneGroups];
#pragma unroll
    for (u32 w = 0; w < kLaneGroups; ++w) p[w] = parts[k][w][column][row];
    sum += ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]));
  }
  return sum;
}

// Starts a panel for a tile. `row_of(pair)` is the row of activations of a pair.
template <int TIER, class RowOf>
HB_DEV PanelBatch<TIER> start_panel(const Panel<TIER>& panel, const ActGroup* x, u32 groups, const Tiles& tiles,
                                    const Tile& tile, RowOf row_of) {
  const u32 lane = threadIdx.x % kWarp;
  PanelBatch<TIER> batch{panel, x, lane};
#pragma unroll
  for (int n = 0; n < int(kTiles); ++n) {
    batch.operand[n] = row_of(pair_in(tiles, tile, kColumns * n + (lane >> 2))) * groups;
#pragma unroll
    for (int c = 0; c < 2; ++c)
      batch.result[n][c] = row_of(pair_in(tiles, tile, kColumns * n + 2u * (lane & 3u) + c)) * groups;
  }
  if (kHasTable<TIER>)
#pragma unroll
    for (int r = 0; r < 2; ++r) batch.table[r] = load4(panel.meta + kPanelTables + 4u * ((lane >> 2) + 8u * r));
  return batch;
}

// grid (I / 32, tiles), kBatchThreads threads.
template <int TIER>
HB_DEV void batch_gate_up(const Tiles& tiles, const ActGroup* x, ActGroup* h, const Shape& s, const Variant& a) {
  HB_SHARED(float, parts, [kSplit][kLaneGroups][kTileTokens][kPanelRows]);
  HB_SHARED(float, sums, [4][kTileTokens][kPanelRows]);
  const Tile tile = tiles.tiles[blockIdx.y];
  const u64* segments = tiles.segments + 4u * u32(tile.slot);
  const u32 warp = warp_index(), lane = threadIdx.x % kWarp, chunk = blockIdx.x, groups = s.hidden / kGroup;
  const u32 panels = panels_a_chunk(s), column = threadIdx.x / kPanelRows, row = threadIdx.x % kPanelRows;
  for (u32 p = 0; p < panels; ++p) {
    const Panel<TIER> panel = find_panel<TIER>(segments, s, false, panels * chunk + p);
    add_panel(start_panel<TIER>(panel, x, groups, tiles, tile, [&](u32 pair) { return pair / s.top_k; }), groups, parts);
    __syncthreads();
    sums[p][column][row] = add_parts(parts, column, row);
    __syncthreads();
  }
  const u32 half = lane / kPanelRows, step = s.gated ? 2u : 1u, unit_row = lane % kPanelRows;
  for (u32 c = warp; c < u32(tile.count); c += kLaneGroups) {
    const float gate = s.gated ? sums[2u * half][c][unit_row] : 0.0f, up = sums[step * half + step - 1u][c][unit_row];
    const float value = finish_unit(s, a, find_biases(segments, s, false), kGroup * chunk + lane, gate, up);
    quantize_group(value, h + u64(pair_in(tiles, tile, c)) * (s.inter / kGroup) + chunk);
  }
}

// grid (D / 16, tiles), kBatchThreads threads.
template <int TIER> HB_DEV void batch_down(const Tiles& tiles, const ActGroup* h, float* y, const Shape& s) {
  HB_SHARED(float, parts, [kSplit][kLaneGroups][kTileTokens][kPanelRows]);
  const Tile tile = tiles.tiles[blockIdx.y];
  const u64* segments = tiles.segments + 4u * u32(tile.slot);
  const u32 groups = s.inter / kGroup, column = threadIdx.x / kPanelRows, row = threadIdx.x % kPanelRows;
  const Panel<TIER> panel = find_panel<TIER>(segments, s, true, blockIdx.x);
  add_panel(start_panel<TIER>(panel, h, groups, tiles, tile, [](u32 pair) { return pair; }), groups, parts);
  __syncthreads();
  const u32 out_row = kPanelRows * blockIdx.x + row;
  if (column < u32(tile.count))
    y[u64(pair_in(tiles, tile, column)) * s.hidden + out_row] =
        finish_output(s, find_biases(segments, s, false), out_row, add_parts(parts, column, row));
}
