// Quantises one panel (16 rows) to metadata, planes and the sums its errors are computed from.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hobbit {

struct PanelStats {
  double weight_sq;         // sum w^2
  double residual_sq[4];    // sum (w - w')^2 at tiers 2, 4, 6, 8
};

struct PanelTarget {
  uint8_t* meta;
  uint8_t* plane[4];  // null where the plane is not stored
};

// `tile` is [groups][32 inputs][16 rows], finite; `fits` is scratch of [groups][3][16].
using EncodePanel = void (*)(const float* tile, size_t groups, float* fits, const PanelTarget& target,
                             PanelStats& stats);

void encode_panel_base(const float*, size_t, float*, const PanelTarget&, PanelStats&);
#if defined(__x86_64__)
void encode_panel_avx2(const float*, size_t, float*, const PanelTarget&, PanelStats&);
void encode_panel_avx512(const float*, size_t, float*, const PanelTarget&, PanelStats&);
#endif

}  // namespace hobbit
