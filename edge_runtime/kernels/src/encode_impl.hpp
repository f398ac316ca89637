// The quantiser over HOBBIT_LANES rows at a time. Each including unit sets HOBBIT_LANES and
// HOBBIT_ENCODE; all are compiled without contraction, so their output is the same bytes.
#include <cstring>

#include "encode_panel.hpp"
#include "layout.hpp"

namespace hobbit {
namespace {

constexpr int kLanes = HOBBIT_LANES;
typedef float VF __attribute__((vector_size(4 * HOBBIT_LANES)));
typedef int32_t VI __attribute__((vector_size(4 * HOBBIT_LANES)));

constexpr float kRound = 12582912.0f;  // adding and taking off rounds to nearest even

// Error of the two-bit tier counted while (a, b) are chosen. Measured on Student-t (5 d.o.f.) and
// trained weights: 0.036 costs 0.6 % of the four-bit error and takes 1.5 % off the two-bit error;
// more would cost the four-bit tier over 1 %.
constexpr float kLambda = 0.036f;
// Assumed means of the two-bit cells in units of a; the stored table is fitted to the real ones.
constexpr float kCellFirst = 2.0f, kCellStep = 11.0f / 3;
// Search effort: starting ranges per end, cut per step, starts kept, refits of each, sweeps over
// neighbouring stored steps. The error has many local minima: kept starts pay more than a finer grid.
constexpr int kGrid = 6, kKept = 6, kRefits = 3, kSweeps = 2;
constexpr float kGridStep = 0.045f;

inline VF all(float x) { return VF{} + x; }
inline VF load(const float* p) { VF v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, VF v) { std::memcpy(p, &v, sizeof v); }
inline VF vmin(VF a, VF b) { return a < b ? a : b; }
inline VF vmax(VF a, VF b) { return a > b ? a : b; }
inline VF round_clamp(VF v, float top) { return (vmax(vmin(v, all(top)), all(0)) + kRound) - kRound; }
inline VF inverse(VF v, float numerator) { return v > 0 ? numerator / (v > 0 ? v : all(1)) : all(0); }

struct Group {
  VF w[kGroup];
  VF sum, sum_sq, low, high;
};

inline void read_group(const float* tile, Group& g) {
  g.sum = g.sum_sq = g.low = all(0);
  g.high = all(-3.4e38f);
  for (size_t i = 0; i < kGroup; ++i) {
    const VF w = g.w[i] = load(tile + i * kPanelRows);
    g.sum += w;
    g.sum_sq += w * w;
    g.low = vmin(g.low, w);  // starts at 0: the stored minimum cannot be positive
    g.high = vmax(g.high, w);
  }
}

struct Fit {
  VF a, b, error;
};

// Two-bit reconstruction of code q, in units of a: the assumed mean of its cell.
inline VF cell_level(VF q) {
  const VF cell = ((q * 0.25f - 0.375f) + kRound) - kRound;  // floor(q / 4)
  return kCellStep * cell + kCellFirst;
}

// Chooses codes under (a, b), then the (a, b) that minimise, for those codes, the four-bit error
// plus kLambda times the two-bit error; both are quadratic in (a, b), so this is one least squares.
inline Fit refit(const Group& g, VF a, VF b) {
  constexpr float kCount = kGroup;
  const float n = kCount * (1 + kLambda);
  const VF inv = inverse(a, 1.0f), sw = g.sum * (1 + kLambda), sww = g.sum_sq * (1 + kLambda);
  VF su = all(0), suu = all(0), swu = all(0);
  for (size_t i = 0; i < kGroup; ++i) {
    const VF q = round_clamp((g.w[i] - b) * inv, 15.0f), level = cell_level(q), share = kLambda * level;
    const VF u = q + share;
    su += u;
    suu += q * q + share * level;
    swu += g.w[i] * u;
  }
  const VF det = n * suu - su * su, safe = det > 0 ? det : all(1);
  VF a2 = (n * swu - su * sw) / safe, b2 = (sw - a2 * su) * (1.0f / n);
  a2 = b2 > 0 ? swu / (suu > 0 ? suu : all(1)) : a2;
  b2 = vmin(b2, all(0));
  const auto usable = (det > 0) & (a2 > 0);
  a2 = usable ? a2 : a;
  b2 = usable ? b2 : b;
  const VF error = sww - 2.0f * a2 * swu - 2.0f * b2 * sw + a2 * a2 * suu + 2.0f * a2 * b2 * su + n * b2 * b2;
  return {a2, b2, error};
}

// What the stored metadata really cost: codes chosen anew, four-bit error plus a share of the two-bit.
inline VF stored_error(const Group& g, VF a, VF b) {
  const VF inv = inverse(a, 1.0f);
  VF e4 = all(0), e2 = all(0);
  for (size_t i = 0; i < kGroup; ++i) {
    const VF d = g.w[i] - b, q = round_clamp(d * inv, 15.0f), x = d - a * q;
    e4 += x * x;
    const VF y = d - a * cell_level(q);
    e2 += y * y;
  }
  return e4 + kLambda * e2;
}

// Leaves the better of the two in `kept` and the worse in `f`.
inline void exchange(Fit& kept, Fit& f) {
  const auto better = f.error < kept.error;
  const Fit worse{better ? kept.a : f.a, better ? kept.b : f.b, better ? kept.error : f.error};
  kept = {better ? f.a : kept.a, better ? f.b : kept.b, better ? f.error : kept.error};
  f = worse;
}

// Grid over shrunk ranges, each refitted once; the best few are refitted further.
inline Fit search(const Group& g) {
  const VF range = vmax(g.high - g.low, all(0));
  Fit best[kKept];
  for (Fit& f : best) f = {range * (1.0f / 15), g.low, all(3.4e38f)};
  for (int i = 0; i < kGrid; ++i)
    for (int j = 0; j < kGrid; ++j) {
      const float from = float(i) * kGridStep, to = float(j) * kGridStep;
      Fit f = refit(g, range * ((1.0f - from - to) / 15), vmin(g.low + range * from, all(0)));
      for (Fit& kept : best) exchange(kept, f);
    }
  for (Fit& start : best) {
    for (int i = 0; i < kRefits; ++i) {
      Fit f = refit(g, start.a, start.b);
      exchange(start, f);
    }
    if (&start != best) exchange(best[0], start);
  }
  return best[0];
}

struct Steps {
  VF scale, min;  // integers 0..255
};

inline Steps best_steps(const Group& g, VF a, VF b, VF row_scale, VF row_min) {
  Steps best{round_clamp(a * inverse(row_scale, 1.0f), 255.0f), round_clamp(-b * inverse(row_min, 1.0f), 255.0f)};
  VF error = stored_error(g, row_scale * best.scale, -row_min * best.min);
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    const Steps centre = best;
    for (int i = -1; i <= 1; ++i)
      for (int j = -1; j <= 1; ++j) {
        if (i == 0 && j == 0) continue;
        const Steps s{vmax(vmin(centre.scale + float(i), all(255)), all(0)),
                      vmax(vmin(centre.min + float(j), all(255)), all(0))};
        const VF e = stored_error(g, row_scale * s.scale, -row_min * s.min);
        const auto better = e < error;
        best.scale = better ? s.scale : best.scale;
        best.min = better ? s.min : best.min;
        error = better ? e : error;
      }
  }
  return best;
}

struct Sums {
  VF weight_sq{}, residual_sq[4]{}, cell_dot[4]{}, cell_sq[4]{};
};

// Writes the planes of one group (`at` = its byte offset in a plane of the panel) and adds its sums.
inline void emit(const Group& g, VF a, VF b, const PanelTarget& target, size_t at, Sums& sums) {
  const VF inv = inverse(a, 1.0f), inv14 = inverse(a, 14.0f), step = a * (1.0f / 14);
  VF count[4]{}, above[4]{};
  for (int v = 0; v < 2; ++v) {
    VI word[4]{};
    for (int k = 0; k < 16; ++k) {
      const int shift = 8 * (k & 3) + 2 * (k >> 2);
      const VF d = g.w[16 * v + k] - b, q = round_clamp(d * inv, 15.0f), e4 = d - a * q;
      const VF r = round_clamp(e4 * inv14 + 7.5f, 15.0f);
      const VI qi = __builtin_convertvector(q, VI), ri = __builtin_convertvector(r, VI), cell = qi >> 2;
      const VI p2 = ri >> 2;
      word[0] |= cell << shift;
      word[1] |= (qi & 3) << shift;
      word[2] |= p2 << shift;
      word[3] |= (ri & 3) << shift;
      const VF e6 = e4 - step * (4.0f * __builtin_convertvector(p2, VF) - 6.0f), e8 = e4 - step * (r - 7.5f);
      sums.residual_sq[0] += d * d;
      sums.residual_sq[1] += e4 * e4;
      sums.residual_sq[2] += e6 * e6;
      sums.residual_sq[3] += e8 * e8;
      for (int c = 0; c < 4; ++c) {
        count[c] += cell == c ? all(1) : all(0);
        above[c] += cell == c ? d : all(0);
      }
    }
    for (int k = 0; k < 4; ++k)
      if (target.plane[k]) std::memcpy(target.plane[k] + at + 64 * v, &word[k], sizeof word[k]);
  }
  sums.weight_sq += g.sum_sq;
  for (int c = 0; c < 4; ++c) {
    sums.cell_dot[c] += a * above[c];
    sums.cell_sq[c] += a * a * count[c];
  }
}

inline void add_lanes(double& total, VF v) {
  for (int i = 0; i < kLanes; ++i) total += double(v[i]);
}

// Steps below this would have an inverse that overflows; the row is as good as zero.
inline VF row_step(VF top) { return top > 1e-30f ? top * (1.0f / 255) : all(0); }

void encode_slice(const float* tile, size_t groups, float* fits, const PanelTarget& target, size_t row, Sums& sums) {
  VF top_a = all(0), top_b = all(0);
  Group g;
  for (size_t i = 0; i < groups; ++i) {
    read_group(tile + i * kGroup * kPanelRows + row, g);
    const Fit fit = search(g);
    store(fits + (2 * i) * kPanelRows + row, fit.a);
    store(fits + (2 * i + 1) * kPanelRows + row, fit.b);
    top_a = vmax(top_a, fit.a);
    top_b = vmax(top_b, -fit.b);
  }
  const VF row_scale = row_step(top_a), row_min = row_step(top_b);
  std::memcpy(target.meta + 4 * row, &row_scale, sizeof row_scale);
  std::memcpy(target.meta + 64 + 4 * row, &row_min, sizeof row_min);
  for (size_t i = 0; i < groups; ++i) {
    read_group(tile + i * kGroup * kPanelRows + row, g);
    const float* fit = fits + 2 * i * kPanelRows + row;
    const Steps steps = best_steps(g, load(fit), load(fit + kPanelRows), row_scale, row_min);
    uint8_t* meta = target.meta + kPanelMeta + i * kGroupMeta + row;
    for (int lane = 0; lane < kLanes; ++lane) {
      meta[lane] = uint8_t(steps.scale[lane]);
      meta[16 + lane] = uint8_t(steps.min[lane]);
    }
    emit(g, row_scale * steps.scale, -row_min * steps.min, target, i * kGroupPlane + 4 * row, sums);
  }
}

}  // namespace

void HOBBIT_ENCODE(const float* tile, size_t groups, float* fits, const PanelTarget& target, PanelStats& stats) {
  stats = PanelStats{};
  for (size_t row = 0; row < kPanelRows; row += size_t(kLanes)) {
    Sums sums;
    encode_slice(tile, groups, fits, target, row, sums);
    add_lanes(stats.weight_sq, sums.weight_sq);
    for (int k = 0; k < 4; ++k) {
      add_lanes(stats.residual_sq[k], sums.residual_sq[k]);
      add_lanes(stats.cell_dot[k], sums.cell_dot[k]);
      add_lanes(stats.cell_sq[k], sums.cell_sq[k]);
    }
  }
}

}  // namespace hobbit
