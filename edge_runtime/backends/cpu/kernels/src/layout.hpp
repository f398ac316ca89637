// Byte layout of one expert record (docs/format.md, sections 1.2 to 1.4), as offsets only.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hobbit {

constexpr size_t kGroup = 32;        // inputs under one scale and minimum
constexpr size_t kPanelRows = 16;    // output rows of a panel
constexpr size_t kRecordHeader = 64;
constexpr size_t kPanelTable = 128;  // offset of u8 table[16][4] behind float row_scale[16], row_min[16]
constexpr size_t kPanelMeta = kPanelTable + 64;
constexpr size_t kGroupMeta = 32;    // u8 scale[16], u8 min[16]
constexpr size_t kGroupPlane = 128;  // two bits of 16 rows x 32 inputs
constexpr size_t kSegmentAlign = 4096;
constexpr uint32_t kRecordMagic = 0x31524248;  // "HBR1" read as a little-endian word

// What 4-bit codes stand for in records of 4-bit floats (E2M1): twice the float, plus 12. Code 7 is -0.
constexpr uint8_t kFp4Codes[16] = {0, 4, 6, 8, 9, 10, 11, 12, 12, 13, 14, 15, 16, 18, 20, 24};

enum Matrix : int { kGate = 0, kUp = 1, kDown = 2 };

constexpr size_t pad_segment(size_t n) { return (n + kSegmentAlign - 1) / kSegmentAlign * kSegmentAlign; }

struct ExpertLayout {
  size_t hidden, intermediate;
  bool gated = true, bias = false;
  bool fp4 = false;  // codes stand for 4-bit floats

  int first() const { return gated ? kGate : kUp; }  // matrices are first() .. kDown
  size_t wide() const { return gated ? 2 : 1; }      // matrices that read x
  size_t rows(int matrix) const { return matrix == kDown ? hidden : intermediate; }
  size_t cols(int matrix) const { return matrix == kDown ? intermediate : hidden; }
  size_t panels(int matrix) const { return rows(matrix) / kPanelRows; }
  size_t groups(int matrix) const { return cols(matrix) / kGroup; }

  size_t panel_meta(int matrix) const { return kPanelMeta + groups(matrix) * kGroupMeta; }
  size_t panel_plane(int matrix) const { return groups(matrix) * kGroupPlane; }
  size_t panel_bf16(int matrix) const { return cols(matrix) * kPanelRows * 2; }

  // Gate and up panels alternate, or there are up panels alone; the down panels follow.
  size_t interleave(int matrix, size_t panel, size_t up_size, size_t down_size) const {
    if (matrix != kDown) return (wide() * panel + size_t(matrix - first())) * up_size;
    return wide() * panels(kUp) * up_size + panel * down_size;
  }
  size_t meta_offset(int matrix, size_t panel) const {  // from the start of segment 0
    return kRecordHeader + interleave(matrix, panel, panel_meta(kUp), panel_meta(kDown));
  }
  size_t plane_offset(int matrix, size_t panel) const {  // from the start of a plane
    return interleave(matrix, panel, panel_plane(kUp), panel_plane(kDown));
  }
  size_t bf16_offset(int matrix, size_t panel) const {
    return interleave(matrix, panel, panel_bf16(kUp), panel_bf16(kDown));
  }

  size_t plane_start(int segment) const { return segment == 0 ? meta_offset(kDown, panels(kDown)) : 0; }
  size_t plane_bytes() const { return plane_offset(kDown, panels(kDown)); }

  // Float32 biases gate [I], up [I], down [D], where there are some: behind plane 0, or at a bfloat16 record's end.
  size_t bias_offset(int matrix) const {
    return (matrix == kDown ? wide() : size_t(matrix - first())) * intermediate * sizeof(float);
  }
  size_t bias_bytes() const { return bias ? bias_offset(kDown) + hidden * sizeof(float) : 0; }
  size_t bias_start(bool bf16) const {  // from the start of segment 0, or of the bfloat16 record
    return bf16 ? bf16_offset(kDown, panels(kDown)) : plane_start(0) + plane_bytes();
  }

  size_t segment_bytes(int segment) const {
    return pad_segment(plane_start(segment) + plane_bytes() + (segment == 0 ? bias_bytes() : 0));
  }
  size_t bf16_bytes() const { return pad_segment(bias_start(true) + bias_bytes()); }
};

}  // namespace hobbit
