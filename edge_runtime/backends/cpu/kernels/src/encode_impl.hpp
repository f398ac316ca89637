// The quantiser over HOBBIT_LANES rows at a time. Each including unit sets HOBBIT_LANES and
// HOBBIT_ENCODE; all are compiled without contraction, so their output is the same bytes.
#include "encode_panel.hpp"
#include "encode_search.hpp"
#include "encode_grid.hpp"
#include "encode_cells.hpp"

namespace hobbit {
namespace {

// Error of the two-bit tier counted while (a, b) are chosen (3/77 in the integer search). Measured on Student-t
// (5 d.o.f.), normal and trained weights: it adds 0.6 to 0.7 % to the four-bit error and takes 1.4 to 1.6 % off
// the two-bit error; more would cost the four-bit tier over 1 % against a search with unquantised steps.
constexpr float kLambda = 0.042f;
// Assumed means of the two-bit cells in units of a; the stored tables are fitted to the real ones.
constexpr float kCellFirst = 2.0f, kCellStep = 11.0f / 3;
// Stored scales tried each way.
constexpr int kScales = 3;

struct Fit {
  VF a, b, tilt, error;  // tilt: how far the best b falls as a rises
};

// Two-bit reconstruction of code q, in units of a: the assumed mean of its cell.
inline VF cell_level(VF q) {
  const VF first = ((q - 1.5f) + 4 * kRound) - 4 * kRound;  // a unit in the sum's last place is 4
  return kCellStep / 4 * first + kCellFirst;
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
  return {a2, b2, su * (1.0f / n), error};
}

// What stored metadata really cost: codes chosen anew, four-bit error plus kLambda times the two-bit.
inline VF stored_error(const Group& g, const Table& table, VF a, VF b) {
  const VF inv = inverse(a, 1.0f);
  VF e4 = all(0), e2 = all(0), above[4];
  for (int k = 0; k < 4; ++k) above[k] = a * table.level[k];
  for (size_t i = 0; i < kGroup; ++i) {
    const VF d = g.w[i] - b, q = round_clamp(d * inv, 15.0f), x = d - a * q, y = d - look_up(above, q);
    e4 += x * x;
    e2 += y * y;
  }
  return e4 + kLambda * e2;
}

// The best of the fits the integer search found, with exact codes.
inline Fit search(const Group& g) {
  Scaled scaled;
  scale_group(g, scaled);
  Rough found[kJudged];
  rough_search(scaled, found);
  Fit best{all(0), all(0), all(0), all(3.4e38f)};
  for (const Rough& f : found) {
    const Fit fit = refit(g, f.a * scaled.unit, vmin(g.low + f.b * scaled.unit, all(0)));
    const auto better = fit.error < best.error;
    best = {better ? fit.a : best.a, better ? fit.b : best.b, better ? fit.tilt : best.tilt,
            better ? fit.error : best.error};
  }
  const VF step = grid_step(g);
  const Fit fit = refit(g, step, g.low);
  const auto better = (step > 0) & (fit.error < best.error);
  return {better ? fit.a : best.a, better ? fit.b : best.b, better ? fit.tilt : best.tilt, all(0)};
}

struct Steps {
  VF scale, min;  // integers 0..255
};

inline void try_steps(const Group& g, const Table& table, VF row_scale, VF row_min, Steps s, Steps& best, VF& error) {
  s.min = vmax(vmin(s.min, all(255)), all(0));
  const VF e = stored_error(g, table, row_scale * s.scale, -row_min * s.min);
  const auto better = e < error;
  best.scale = better ? s.scale : best.scale;
  best.min = better ? s.min : best.min;
  error = better ? e : error;
}

// Stored steps near the fit. Its error is a narrow valley: another a wants its own b, which is
// where the mean of the codes (`tilt`) stays.
inline Steps best_steps(const Group& g, const Table& table, const Fit& f, VF row_scale, VF row_min) {
  const VF inv_min = inverse(row_min, 1.0f);
  const VF near = round_clamp(f.a * inverse(row_scale, 1.0f), 255.0f);
  Steps best{near, all(0)};
  VF error = all(3.4e38f);
  for (int i = -kScales; i <= kScales; ++i) {
    const VF scale = vmax(vmin(near + float(i), all(255)), all(0));
    const VF b = vmin(f.b + (f.a - row_scale * scale) * f.tilt, all(0));
    try_steps(g, table, row_scale, row_min, {scale, (-b * inv_min + kRound) - kRound}, best, error);
  }
  const Steps centre = best;
  for (int j = -1; j <= 1; j += 2)
    try_steps(g, table, row_scale, row_min, {centre.scale, centre.min + float(j)}, best, error);
  return best;
}

struct Sums {
  VF weight_sq{}, above_sq{}, residual_sq[3]{};  // w, w - b, and what tiers 4, 6, 8 leave
  CellSums cells;
};

// Writes the planes of one group (`at` = its byte offset in a plane of the panel) and adds its sums.
inline void emit(const Group& g, VF a, VF b, const PanelTarget& target, size_t at, Sums& sums) {
  const VF inv = inverse(a, 1.0f), inv14 = inverse(a, 14.0f), step = a * (1.0f / 14);
  for (int v = 0; v < 2; ++v) {
    VI word[4]{};
    for (int k = 0; k < 16; ++k) {
      const int shift = 8 * (k & 3) + 2 * (k >> 2);
      const VF d = g.w[16 * v + k] - b, q = round_clamp(d * inv, 15.0f), e4 = d - a * q;
      const VF r = round_clamp(e4 * inv14 + 7.5f, 15.0f);
      const VI qi = __builtin_convertvector(q, VI), ri = __builtin_convertvector(r, VI), p2 = ri >> 2;
      word[0] |= (qi >> 2) << shift;
      word[1] |= (qi & 3) << shift;
      word[2] |= p2 << shift;
      word[3] |= (ri & 3) << shift;
      const VF e6 = e4 - step * (4.0f * __builtin_convertvector(p2, VF) - 6.0f), e8 = e4 - step * (r - 7.5f);
      sums.above_sq += d * d;
      sums.residual_sq[0] += e4 * e4;
      sums.residual_sq[1] += e6 * e6;
      sums.residual_sq[2] += e8 * e8;
    }
    for (int k = 0; k < 4; ++k)
      if (target.plane[k]) std::memcpy(target.plane[k] + at + 64 * v, &word[k], sizeof word[k]);
  }
  sums.weight_sq += g.sum_sq;
  add_cells(g, a, b, sums.cells);
}

inline void add_lanes(double& total, VF v) {
  for (int i = 0; i < kLanes; ++i) total += double(v[i]);
}

// Steps below this would have an inverse that overflows; the row is as good as zero.
inline VF row_step(VF top) { return top > 1e-30f ? top * (1.0f / 255) : all(0); }

// One slice of the panel's rows. The table is fitted to the codes of the searched (a, b), the
// stored steps and final codes are chosen under it, and it is fitted to those once more.
void encode_slice(const float* tile, size_t groups, float* fits, const PanelTarget& target, size_t row,
                  PanelStats& stats) {
  VF top_a = all(0), top_b = all(0), entry[4];
  CellSums found;
  Group g;
  for (size_t i = 0; i < groups; ++i) {
    read_group(tile + i * kGroup * kPanelRows + row, g);
    const Fit fit = search(g);
    float* kept = fits + 3 * i * kPanelRows + row;
    store(kept, fit.a);
    store(kept + kPanelRows, fit.b);
    store(kept + 2 * kPanelRows, fit.tilt);
    top_a = vmax(top_a, fit.a);
    top_b = vmax(top_b, -fit.b);
    add_cells(g, fit.a, fit.b, found);
  }
  const VF row_scale = row_step(top_a), row_min = row_step(top_b);
  std::memcpy(target.meta + 4 * row, &row_scale, sizeof row_scale);
  std::memcpy(target.meta + 64 + 4 * row, &row_min, sizeof row_min);
  fit_table(found, entry);
  Table table;
  for (int k = 0; k < 4; ++k) table.level[k] = entry[k] * 0.125f;
  Sums sums;
  for (size_t i = 0; i < groups; ++i) {
    read_group(tile + i * kGroup * kPanelRows + row, g);
    const float* kept = fits + 3 * i * kPanelRows + row;
    const Fit fit{load(kept), load(kept + kPanelRows), load(kept + 2 * kPanelRows), all(0)};
    const Steps steps = best_steps(g, table, fit, row_scale, row_min);
    uint8_t* meta = target.meta + kPanelMeta + i * kGroupMeta + row;
    for (int lane = 0; lane < kLanes; ++lane) {
      meta[lane] = uint8_t(steps.scale[lane]);
      meta[16 + lane] = uint8_t(steps.min[lane]);
    }
    emit(g, row_scale * steps.scale, -row_min * steps.min, target, i * kGroupPlane + 4 * row, sums);
  }
  fit_table(sums.cells, entry);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int k = 0; k < 4; ++k) {
      const double level = double(entry[k][lane]) / 8;
      target.meta[kPanelTable + 4 * (row + size_t(lane)) + size_t(k)] = uint8_t(entry[k][lane]);
      stats.residual_sq[0] += level * (level * double(sums.cells.sq[k][lane]) - 2 * double(sums.cells.dot[k][lane]));
    }
  add_lanes(stats.weight_sq, sums.weight_sq);
  add_lanes(stats.residual_sq[0], sums.above_sq);
  for (int k = 0; k < 3; ++k) add_lanes(stats.residual_sq[k + 1], sums.residual_sq[k]);
}

}  // namespace

void HOBBIT_ENCODE(const float* tile, size_t groups, float* fits, const PanelTarget& target, PanelStats& stats) {
  stats = PanelStats{};
  for (size_t row = 0; row < kPanelRows; row += size_t(kLanes)) encode_slice(tile, groups, fits, target, row, stats);
}

}  // namespace hobbit
