#include "use_forecast.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hobbit {

UseForecast::UseForecast(int num_layers, int num_experts, int top_k, double half_life, int memory)
    : num_layers_(num_layers), num_experts_(num_experts), no_favourites_(double(top_k) / num_experts), memory_(memory),
      rates_(size_t(num_keys()), Rates{}), waits_(size_t(num_keys())), stale_(size_t(num_layers), 1) {
  half_life = std::max(half_life, 1e-2);
  for (double& kept : kept_) {
    kept = std::exp2(-1.0 / half_life);
    half_life *= 10.0;
  }
  std::fill_n(weights_, kHalfLives + 1, 1.0 / (kHalfLives + 1));
  weigh();
}

void UseForecast::begin_pass() {
  if (!before_.empty()) learn();
  before_.clear();
  for (int i = 0; i < kHalfLives; ++i) known_[i] = known_[i] * kept_[i] + (1.0 - kept_[i]);
  weigh();
}

void UseForecast::use(const int64_t* keys, int64_t count) {
  if (count == 0) return;
  for (int64_t i = 0; i < count; ++i) before_.push_back(rates_[size_t(keys[i])]);
  const int64_t layer = keys[0] / num_experts_;
  Rates* const first = &rates_[size_t(layer * num_experts_)];
  for (Rates* one = first; one < first + num_experts_; ++one)
    for (int i = 0; i < kHalfLives; ++i) one->over[i] *= kept_[i];
  for (int64_t k = 0; k < count; ++k)
    for (int i = 0; i < kHalfLives; ++i) rates_[size_t(keys[k])].over[i] += 1.0 - kept_[i];
  stale_[size_t(layer)] = 1;
}

void UseForecast::score(const int64_t* keys, int64_t count, int layer, double* scores) {
  for (int each = 0; each < num_layers_; ++each)
    if (stale_[size_t(each)]) wait_times(each);
  for (int64_t i = 0; i < count; ++i) {
    if (keys[i] < 0) {
      scores[i] = 0.0;
      continue;
    }
    const int of = int(keys[i] / num_experts_);
    const int to_go = of > layer ? of - layer - 1 : of - layer - 1 + num_layers_;
    scores[i] = waits_[size_t(keys[i])] - double(to_go) / num_layers_;
  }
}

double UseForecast::chance(const Rates& rates) const {
  double sum = of_all_;
  for (int i = 0; i < kHalfLives; ++i) sum += rates.over[i] * of_rates_[i];
  return sum;
}

// One step of expectation maximisation: each forecast is credited with its share in foreseeing what was used.
void UseForecast::learn() {
  double credit[kHalfLives + 1] = {};
  for (const Rates& rates : before_) {
    const double whole = 1.0 / chance(rates);
    for (int i = 0; i < kHalfLives; ++i) credit[i] += rates.over[i] * of_rates_[i] * whole;
    credit[kHalfLives] += of_all_ * whole;
  }
  for (int i = 0; i <= kHalfLives; ++i) {
    const double share = credit[i] / double(before_.size());
    weights_[i] = std::max(weights_[i] + (share - weights_[i]) / memory_, kLeast);
  }
}

void UseForecast::weigh() {
  // above 0 before the first pass too, when all rates are 0
  for (int i = 0; i < kHalfLives; ++i)
    of_rates_[i] = weights_[i] / std::max(known_[i], std::numeric_limits<double>::min());
  of_all_ = weights_[kHalfLives] * no_favourites_;
  std::fill(stale_.begin(), stale_.end(), char(1));
}

void UseForecast::wait_times(int layer) {
  const size_t first = size_t(layer) * size_t(num_experts_);
  for (size_t key = first; key < first + size_t(num_experts_); ++key)
    waits_[key] = std::min(-1.0 / std::max(chance(rates_[key]), kLeast), -1.0);
  stale_[size_t(layer)] = 0;
}

}  // namespace hobbit
