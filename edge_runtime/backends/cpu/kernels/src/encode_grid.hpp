// The grid of a source that is quantised itself. Included once by encode_impl.hpp,
// after encode_search.hpp.
//
// Its weights are whole steps apart, zero among them. Groups of the source may be wider than ours, so that one of ours
// has fewer levels than codes: the search alone would lay another grid over them and round a second time.
namespace hobbit {
namespace {

// Weights rounded to bfloat16 since, both of a quotient, are off by at most 15 / 256 steps.
constexpr float kOffGrid = 1.0f / 16;
constexpr int kSmallest = 3;  // the smallest weight is one to so many steps
// A smaller weight, next to the group's range, rules a grid out. Taken for this, it keeps quotients finite, which the
// compiler relies on.
constexpr float kLeast = 1.0f / 64;
constexpr float kCodes = 15;

// Step of codes that hit every weight of a group; 0 where the group lies on no grid of at most 16 levels. Few levels
// are laid on every second, third, ... code: the two-bit tier and the deeper ones are finer then.
inline VF grid_step(const Group& g) {
  const VF range = g.high - g.low;
  VF least = all(3.4e38f), step = all(0);
  for (size_t i = 0; i < kGroup; ++i) {
    const VF size = vmax(g.w[i], -g.w[i]);
    least = (size > 0) & (size < least) ? size : least;
  }
  least = vmax(least, vmax(range * kLeast, all(1e-32f)));
  for (int steps = 1; steps <= kSmallest; ++steps) {
    const VF inv = float(steps) / least;
    VF off = all(0);
    for (size_t i = 0; i < kGroup; ++i) {
      const VF v = g.w[i] * inv, d = v - ((v + kRound) - kRound);
      off = vmax(off, vmax(d, -d));
    }
    const auto fits = (off <= kOffGrid) & (range * inv < kCodes + 2 * kOffGrid) & (range > 1e-30f);
    step = (step == 0) & fits ? least * (1.0f / float(steps)) : step;
  }
  const VF levels = vmax(range * inverse(step, 1.0f), all(1));
  const VF codes = vmax(vmin(kCodes / levels, all(kCodes)), all(1));
  return step * inverse((codes - (0.5f - kOffGrid) + kRound) - kRound, 1.0f);
}

}  // namespace
}  // namespace hobbit
