#include "hobbit.hpp"

#include <algorithm>

namespace hobbit {

int HobbitDecider::tier_of_use(double importance, int resident) const {
  if (importance <= rule_.t1 || resident >= rule_.full) return rule_.full;
  return importance <= rule_.t2 ? std::min(std::max(resident, rule_.low), rule_.full) : 0;
}

Changes HobbitDecider::decide(size_t, const float*, const uint8_t* resident, const ChoiceRow& row) {
  double total = 0, above = 0;
  for (size_t k = 0; k < row.top_k; ++k) total += row.weights[k];
  if (total == 0) total = 1;
  std::fill_n(row.tiers, row.experts, uint8_t(0));
  Changes found;
  for (size_t k = 0; k < row.top_k; ++k) {
    const double share = row.weights[k];
    above += share;
    const double importance = (above - share) / total;
    // the sum of normalised weights may exceed 1 by rounding
    const int tier = tier_of_use(1.0 < importance ? 1.0 : importance, resident[row.ids[k]]);
    if (share == 0) continue;
    if (tier == 0) {
      row.weights[k] = 0;
      ++found.skipped;
      continue;
    }
    row.tiers[row.ids[k]] = uint8_t(tier);
    found.substituted += tier < rule_.full;
  }
  return found;
}

void HobbitDecider::predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) {
  decide(layer, logits, resident, row);  // it notes nothing
}

}  // namespace hobbit
