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

void UseForecast::begin_pass(int num_tokens) {
  learn();
  num_tokens_ = std::max(num_tokens, 1);
  powers_.resize(size_t(num_tokens_) + 1);
  of_rates_at_.resize(size_t(num_tokens_));
  for (int i = 0; i < kHalfLives; ++i) {
    double power = 1.0;
    for (int t = 0; t < num_tokens_; ++t) {
      powers_[size_t(t)].over[i] = power;
      power *= kept_[i];
      known_[i] = known_[i] * kept_[i] + (1.0 - kept_[i]);
      of_rates_at_[size_t(t)].over[i] = weights_[i] / known_[i];
    }
    powers_[size_t(num_tokens_)].over[i] = power;
  }
  weigh();
}

void UseForecast::use(const int64_t* keys, int64_t count) {
  if (count == 0) return;
  const int layer = int(keys[0] / num_experts_);
  for (int64_t k = 0; k < count; ++k) credit(rates_[size_t(keys[k])], of_rates_);
  Rates* const first = &rates_[size_t(layer) * size_t(num_experts_)];
  for (Rates* one = first; one < first + num_experts_; ++one)
    for (int i = 0; i < kHalfLives; ++i) one->over[i] *= kept_[i];
  for (int64_t k = 0; k < count; ++k)
    for (int i = 0; i < kHalfLives; ++i) rates_[size_t(keys[k])].over[i] += 1.0 - kept_[i];
  stale_[size_t(layer)] = 1;
}

void UseForecast::use_in_order(int layer, const uint8_t* tiers, const int32_t* experts, int64_t tokens,
                               int64_t top_k) {
  Rates* const rates = &rates_[size_t(layer) * size_t(num_experts_)];
  seen_.assign(size_t(num_experts_), 0);  // tokens the rates of an expert are up to
  tokens = std::min(tokens, num_tokens_);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = 0; k < top_k; ++k) {
      const int expert = experts[t * top_k + k];
      if (!tiers[expert] || seen_[size_t(expert)] > t) continue;  // not used, or named twice by one token
      Rates& own = rates[expert];
      const double* power = powers_[size_t(t - seen_[size_t(expert)])].over;
      for (int i = 0; i < kHalfLives; ++i) own.over[i] *= power[i];
      credit(own, of_rates_at_[size_t(t)].over);
      for (int i = 0; i < kHalfLives; ++i) own.over[i] = own.over[i] * kept_[i] + (1.0 - kept_[i]);
      seen_[size_t(expert)] = t + 1;
    }
  for (int expert = 0; expert < num_experts_; ++expert) {
    const double* power = powers_[size_t(tokens - seen_[size_t(expert)])].over;
    for (int i = 0; i < kHalfLives; ++i) rates[expert].over[i] *= power[i];
  }
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

double UseForecast::chance(const Rates& rates, const double* of_rates) const {
  double sum = of_all_;
  for (int i = 0; i < kHalfLives; ++i) sum += rates.over[i] * of_rates[i];
  return sum;
}

// The expectation: the share each forecast has in predicting one use, by the rates before it.
void UseForecast::credit(const Rates& before, const double* of_rates) {
  const double whole = 1.0 / chance(before, of_rates);
  for (int i = 0; i < kHalfLives; ++i) credits_[i] += before.over[i] * of_rates[i] * whole;
  credits_[kHalfLives] += of_all_ * whole;
  ++num_uses_;
}

// The maximisation, as many steps of it as the pass had tokens, each part of the way.
void UseForecast::learn() {
  if (!num_uses_) return;
  const double left = std::pow(1.0 - 1.0 / memory_, double(num_tokens_));
  for (int i = 0; i <= kHalfLives; ++i) {
    const double share = credits_[i] / double(num_uses_);
    weights_[i] = std::max(share + (weights_[i] - share) * left, kLeast);
    credits_[i] = 0.0;
  }
  num_uses_ = 0;
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
    waits_[key] = std::min(-1.0 / std::max(chance(rates_[key], of_rates_), kLeast), -1.0);
  stale_[size_t(layer)] = 0;
}

}  // namespace hobbit
