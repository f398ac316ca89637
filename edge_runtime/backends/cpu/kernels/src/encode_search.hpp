// The search for one group's scale and minimum, in 16-bit integers: half the vectors and a third of the
// operations it takes in float. Included once by encode_impl.hpp.
#include "encode_lanes.hpp"

namespace hobbit {
namespace {

// Starts: the range less a few steps at either end. Search effort: starts kept, refits of each, and
// how many of them are judged in float. The error has many local minima: near starts and several kept
// pay, wide cuts do not.
constexpr int kStarts = 16, kKept = 8, kRefits = 6, kJudged = 2;
constexpr float kCutStep = 0.0375f;
constexpr int kCuts[kStarts] = {0, 1, 2, 3, 4, 8, 9, 10, 11, 16, 17, 18, 24, 25, 32, 5};  // 8 low + high
// Starts refitted at once, so that their chains of dependent operations overlap; no result depends on it.
constexpr int kTogether = kLanes == 16 ? 4 : 2;

// Weights run from kFloor (the group's lowest) to kFloor + kSpan: below is room for minima under the lowest.
constexpr float kFloor = 8192, kSpan = 24575;

struct Scaled {
  VH x[kGroup / 2];
  VF sum;      // of x
  VF unit;     // one step of x
  VF highest;  // the largest minimum allowed, a weight of 0, counted from kFloor
};

// Scale and minimum in steps of x, the minimum counted from kFloor; how much of the variance they explain.
struct Rough {
  VF a, b, score;
};

inline void scale_group(const Group& g, Scaled& s) {
  const VF range = g.high - g.low;
  const auto wide = range > 1e-30f;  // the inverse of less would overflow
  const VF steps = wide ? kSpan / (wide ? range : all(1)) : all(0);
  s.unit = vmax(range, all(0)) * (1.0f / kSpan);
  s.highest = -g.low * steps;
  VI sum{};
  for (size_t i = 0; i < kGroup; i += 2) {
    const VI even = __builtin_convertvector((g.w[i] - g.low) * steps + (kFloor + 0.5f), VI);
    const VI odd = __builtin_convertvector((g.w[i + 1] - g.low) * steps + (kFloor + 0.5f), VI);
    s.x[i / 2] = VH(even | odd << 16);
    sum += sum_pairs(s.x[i / 2]);
  }
  s.sum = real(sum);
}

struct Totals {
  VI xu{}, qq{};  // sums of x times the mixed code, and of q^2
  VH u{}, ll{};   // of the mixed code, and of the level's square
};

// The (a, b) of least error for codes with these sums, the two-bit error weighing 3/77: `refit` in
// encode_impl.hpp is the same in float. (a, b) itself where the codes say nothing.
inline Rough solve(const Scaled& s, const Totals& t, VF a, VF b) {
  constexpr float lambda = 3.0f / 77, n = kGroup, m = n * (1 + lambda);
  const VF u0 = real(sum_pairs(t.u)), xu0 = real(t.xu);
  const VF u = (u0 + n * (6.0f / 11)) * (1.0f / 7);
  const VF uu = real(t.qq) + real(sum_pairs(t.ll)) * (1.0f / 21) + n * (12.0f / 77);
  const VF cov = (xu0 * n - s.sum * u0) * ((1 + lambda) / 7), det = m * uu - u * u;
  const auto usable = (det > 1) & (cov > 0);
  const VF sum = (s.sum - kFloor * n) * (1 + lambda);
  VF a2 = cov / (usable ? det : all(1)), b2 = (sum - a2 * u) * (1.0f / m), score = a2 * cov;
  // Rare: the minimum would be positive. It becomes zero and the scale a fit through it.
  const auto above = b2 > s.highest;
  const VF over = sum - m * s.highest, dot = (xu0 + s.sum * (6.0f / 11)) * (1.0f / 7) - (kFloor + s.highest) * u;
  const VF a3 = dot / uu;
  a2 = above ? a3 : a2;
  b2 = above ? s.highest : b2;
  score = above ? vmax(m * (a3 * dot) - over * over, all(0)) : score;
  const auto sound = usable & (a2 > 0);
  return {sound ? a2 : a, sound ? b2 : b, sound ? score : all(0)};
}

inline VH both_halves(VF v) {
  const VI i = __builtin_convertvector(v, VI);
  return VH(i | i << 16);
}

// Codes under each (a, b), then the (a, b) of least error for those codes.
inline void refit(const Scaled& s, Rough (&fits)[kTogether]) {
  const VH top = VH{} + 15;
  VH from[kTogether], by[kTogether];
  Totals t[kTogether];
  for (int k = 0; k < kTogether; ++k) {
    from[k] = both_halves(vmax(vmin((kFloor + 0.5f) + fits[k].b - 0.5f * fits[k].a, all(32767)), all(0)));
    by[k] = both_halves(vmin(inverse(fits[k].a, 67108864.0f), all(65535)));  // 2^26 / a: the high half is 1024 codes
  }
  for (size_t i = 0; i < kGroup / 2; ++i)
    for (int k = 0; k < kTogether; ++k) {
      const VH q = min_small(mul_high(sub_floor(s.x[i], from[k]), by[k]) >> 10, top), u = mixed_code(q);
      t[k].xu += dot_pairs(s.x[i], u);
      t[k].qq += dot_pairs(q, q);
      t[k].u += u;
      t[k].ll += level_square(q);
    }
  for (int k = 0; k < kTogether; ++k) fits[k] = solve(s, t[k], fits[k].a, fits[k].b);
}

inline Rough start_at(const Scaled& s, VF low_cuts, VF high_cuts) {
  const VF low = low_cuts * kCutStep, high = high_cuts * kCutStep;
  return {(1.0f - low - high) * (kSpan / 15), vmin(low * kSpan, s.highest), all(0)};
}

// Puts a start among the best so far, as its score with its cuts in the last six bits: first come, first kept.
inline void keep_start(VI (&best)[kKept], VF score, int cuts) {
  VI key = (VI(score) & ~63) | (63 - cuts);
  for (VI& kept : best) {
    const VI higher = key > kept ? key : kept;
    key = key > kept ? kept : key;
    kept = higher;
  }
}

inline void keep_fit(Rough (&best)[kJudged], Rough f) {
  for (Rough& kept : best) {
    const auto better = f.score > kept.score;
    const Rough worse{better ? kept.a : f.a, better ? kept.b : f.b, better ? kept.score : f.score};
    kept = {better ? f.a : kept.a, better ? f.b : kept.b, better ? f.score : kept.score};
    f = worse;
  }
}

// The best fits found, in steps of x.
inline void rough_search(const Scaled& s, Rough (&best)[kJudged]) {
  VI starts[kKept]{};
  Rough fits[kTogether];
  for (int first = 0; first < kStarts; first += kTogether) {
    for (int k = 0; k < kTogether; ++k) {
      const int cuts = kCuts[first + k];
      fits[k] = start_at(s, all(float(cuts >> 3)), all(float(cuts & 7)));
    }
    refit(s, fits);
    for (int k = 0; k < kTogether; ++k) keep_start(starts, fits[k].score, kCuts[first + k]);
  }
  for (Rough& f : best) f = {all(0), all(0), all(-1)};
  for (int first = 0; first < kKept; first += kTogether) {
    for (int k = 0; k < kTogether; ++k) {
      const VI cuts = 63 - (starts[first + k] & 63);
      fits[k] = start_at(s, real(cuts >> 3), real(cuts & 7));
    }
    for (int i = 0; i < kRefits; ++i) refit(s, fits);
    for (const Rough& f : fits) keep_fit(best, f);
  }
}

}  // namespace
}  // namespace hobbit
