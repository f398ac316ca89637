#include "cache_prior.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace hobbit {
namespace {

// NaN if one of them is.
float range_of(const float* logits, size_t count) {
  float least = logits[0], most = logits[0];
  for (size_t i = 0; i < count; ++i) {
    if (logits[i] != logits[i]) return logits[i];
    least = std::min(least, logits[i]), most = std::max(most, logits[i]);
  }
  return most - least;
}

// The greater one first, what is no number last: the order numpy sorts the negatives in.
template <class Number> bool is_before(Number a, Number b) { return a > b || (b != b && a == a); }

}  // namespace

void CachePriorDecider::choose(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) {
  if (layer >= state_.places.size()) throw std::invalid_argument("cache-prior: there is no such layer");
  const double raise = rule_.bias * (state_.ranges[layer] / std::max(state_.tokens[layer], 1.0));
  order_.resize(row.experts), ranks_.resize(row.experts), raised_.resize(row.experts);
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(),
                   [&](int32_t a, int32_t b) { return is_before(logits[a], logits[b]); });
  for (size_t rank = 0; rank < row.experts; ++rank) {
    const int32_t expert = order_[rank];
    const bool is_raised = rank < rule_.keeps || resident[expert] >= rule_.full;
    raised_[rank] = double(logits[expert]) + raise * double(is_raised);
  }
  // sorted by the original values first, so that equal raised ones keep the router's order
  std::iota(ranks_.begin(), ranks_.end(), size_t(0));
  std::stable_sort(ranks_.begin(), ranks_.end(), [&](size_t a, size_t b) { return is_before(raised_[a], raised_[b]); });
  std::sort(ranks_.begin(), ranks_.begin() + ptrdiff_t(row.top_k));
  chosen_.clear();
  for (size_t k = 0; k < row.top_k; ++k) chosen_.push_back(order_[ranks_[k]]);
}

Changes CachePriorDecider::decide(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) {
  if (layer >= state_.places.size() || state_.places[layer] < 0)
    throw std::invalid_argument("cache-prior: the layer has no experts");
  state_.ranges[layer] += double(range_of(logits, row.experts));
  state_.tokens[layer] += 1;
  choose(layer, logits, resident, row);
  if (std::equal(chosen_.begin(), chosen_.end(), row.ids)) return {};
  const std::vector<int32_t> wanted(row.ids, row.ids + row.top_k);
  int64_t asked = 0, used = 0;
  for (size_t k = 0; k < row.top_k; ++k) asked += row.weights[k] != 0;
  std::copy(chosen_.begin(), chosen_.end(), row.ids);
  router_.weigh(size_t(state_.places[layer]), {logits, nullptr, 1, row.top_k, row.ids, row.weights});
  std::fill_n(row.tiers, row.experts, uint8_t(0));
  Changes found;
  for (size_t k = 0; k < row.top_k; ++k) {
    if (row.weights[k] == 0) continue;
    ++used;
    row.tiers[row.ids[k]] = uint8_t(rule_.full);
    found.route_changed += std::find(wanted.begin(), wanted.end(), row.ids[k]) == wanted.end();
  }
  found.skipped = std::max(asked - used, int64_t(0));
  return found;
}

void CachePriorDecider::predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) {
  choose(layer, logits, resident, row);
  std::fill_n(row.tiers, row.experts, uint8_t(0));
  for (const int32_t expert : chosen_) row.tiers[expert] = uint8_t(rule_.full);
}

}  // namespace hobbit
