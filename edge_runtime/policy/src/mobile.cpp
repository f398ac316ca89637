#include "mobile.hpp"

#include <algorithm>
#include <stdexcept>

namespace hobbit {

Changes MobileDecider::decide(size_t layer, const float*, const uint8_t*, const ChoiceRow& row) {
  if (layer >= layers_ || row.top_k != top_k_) throw std::invalid_argument("mobile: there is no such layer");
  std::copy_n(row.ids, top_k_, rankings_ + layer * top_k_);
  double all = 0, little = 0;
  for (size_t k = 0; k < row.top_k; ++k) {
    all += row.weights[k];
    if (k < rule_.little) little += row.weights[k];
  }
  const float scale = little == 0 ? 1.0f : float(all / little);
  std::fill_n(row.tiers, row.experts, uint8_t(0));
  Changes found;
  for (size_t k = 0; k < row.top_k; ++k) {
    const bool was_asked = row.weights[k] != 0;
    row.weights[k] = k < rule_.little ? row.weights[k] * scale : 0.0f;
    if (row.weights[k] != 0) row.tiers[row.ids[k]] = uint8_t(rule_.full);
    else found.skipped += was_asked;
  }
  return found;
}

void MobileDecider::predict(size_t, const float*, const uint8_t*, const ChoiceRow& row) {
  std::fill_n(row.tiers, row.experts, uint8_t(0));
  for (size_t k = 0; k < std::min(rule_.little, row.top_k); ++k) row.tiers[row.ids[k]] = uint8_t(rule_.full);
}

}  // namespace hobbit
