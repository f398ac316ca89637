// Encodes a panel whose groups are 4-bit floats (E2M1) times powers of two, losing nothing: no search, portable code.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "encode_panel.hpp"
#include "layout.hpp"

namespace hobbit {

constexpr float kFp4RowScale = 0.5f;  // a code stands for twice the float
constexpr int kFp4Zero = 8;
constexpr float kFp4Largest[] = {6.0f, 4.0f, 3.0f, 2.0f, 1.5f, 1.0f, 0.5f};

// Code of a float that is exactly one of the sixteen; -1: it is none.
inline int fp4_code(float value) {
  const float twice = 2.0f * value;
  if (twice == 0.0f) return kFp4Zero;
  if (!(std::fabs(twice) <= 12.0f) || twice != std::floor(twice)) return -1;
  const uint8_t wanted = uint8_t(int(twice) + 12);
  for (int code = 0; code < 16; ++code)
    if (kFp4Codes[code] == wanted) return code;
  return -1;
}

// Codes of one row's group and the exponent byte of its scale, 0 where all weights are; false: it is no such group.
inline bool fp4_group(const float (&weights)[kGroup], uint8_t (&codes)[kGroup], uint8_t& power) {
  float largest = 0.0f;
  for (float w : weights) largest = std::max(largest, std::fabs(w));
  power = 0;
  std::fill_n(codes, kGroup, uint8_t(kFp4Zero));
  if (largest == 0.0f) return true;
  for (float top : kFp4Largest) {
    int exponent;
    if (std::frexp(largest / top, &exponent) != 0.5f || exponent < -124 || exponent > 127) continue;
    const float inverse = std::ldexp(1.0f, 1 - exponent);  // of the scale 2^(exponent - 1)
    size_t i = 0;
    for (; i < kGroup; ++i) {
      const int code = fp4_code(weights[i] * inverse);
      if (code < 0) break;
      codes[i] = uint8_t(code);
    }
    if (i == kGroup) return power = uint8_t(exponent + 126), true;
  }
  return false;
}

// As EncodePanel, with scratch for the codes of a panel [groups][16][32]; false: `bad_row` holds another number.
inline bool encode_fp4(const float* tile, size_t groups, uint8_t* codes, const PanelTarget& target, PanelStats& stats,
                       size_t& bad_row) {
  stats = {};
  double sums[kPanelRows][4] = {}, weights[kPanelRows][4] = {};
  for (size_t g = 0; g < groups; ++g)
    for (size_t r = 0; r < kPanelRows; ++r) {
      float row[kGroup];
      uint8_t(&out)[kGroup] = *reinterpret_cast<uint8_t(*)[kGroup]>(codes + (g * kPanelRows + r) * kGroup);
      for (size_t i = 0; i < kGroup; ++i) row[i] = tile[(g * kGroup + i) * kPanelRows + r];
      uint8_t* meta = target.meta + kPanelMeta + g * kGroupMeta;
      if (!fp4_group(row, out, meta[r])) return bad_row = r, false;
      meta[kPanelRows + r] = 0;
      const double square = meta[r] ? std::ldexp(1.0, 2 * (int(meta[r]) - 127)) : 0.0;
      for (size_t i = 0; i < kGroup; ++i) {
        sums[r][out[i] >> 2] += square * kFp4Codes[out[i]];
        weights[r][out[i] >> 2] += square;
        stats.weight_sq += double(row[i]) * row[i];
      }
    }
  for (size_t r = 0; r < kPanelRows; ++r) {
    std::memcpy(target.meta + 4 * r, &kFp4RowScale, 4);
    std::memset(target.meta + 4 * (kPanelRows + r), 0, 4);
    for (size_t cell = 0; cell < 4; ++cell) {
      const uint8_t* first = kFp4Codes + 4 * cell;
      const double plain = (first[0] + first[1] + first[2] + first[3]) / 4.0;
      const double mean = weights[r][cell] > 0 ? sums[r][cell] / weights[r][cell] : plain;
      target.meta[kPanelTable + 4 * r + cell] = uint8_t(std::lround(4 * mean));
    }
  }
  for (size_t g = 0; g < groups; ++g) {
    for (int k = 0; k < 2; ++k)
      if (target.plane[k]) std::memset(target.plane[k] + g * kGroupPlane, 0, kGroupPlane);
    for (size_t r = 0; r < kPanelRows; ++r) {
      const uint8_t* row = codes + (g * kPanelRows + r) * kGroup;
      const uint8_t power = target.meta[kPanelMeta + g * kGroupMeta + r];
      const double step = power ? std::ldexp(double(kFp4RowScale), int(power) - 127) : 0.0;
      for (size_t i = 0; i < kGroup; ++i) {
        const size_t at = g * kGroupPlane + 64 * (i / 16) + 4 * r + i % 4, shift = 2 * (i % 16 / 4);
        if (target.plane[0]) target.plane[0][at] |= uint8_t((row[i] >> 2) << shift);
        if (target.plane[1]) target.plane[1][at] |= uint8_t((row[i] & 3) << shift);
        const double coarse = target.meta[kPanelTable + 4 * r + (row[i] >> 2)] / 4.0;
        const double error = step * (coarse - kFp4Codes[row[i]]);
        stats.residual_sq[0] += error * error;
      }
    }
  }
  return true;
}

}  // namespace hobbit
