// The expected time until an expert's next use, from its use rates over several half-lives. See eviction/next_use.py.
#pragma once

#include <cstdint>
#include <vector>

namespace hobbit {

constexpr int kHalfLives = 4;

// Rates of use by expert, the weights of the forecasts they make, and what follows from both.
class UseForecast {
 public:
  // `half_life`: the shortest, in tokens; each next is ten times as long. `memory`: tokens the weights are learnt over.
  UseForecast(int num_layers, int num_experts, int top_k, double half_life, int memory);

  // Learn the weights from what the pass before used; the next one runs so many tokens.
  void begin_pass(int num_tokens);
  // Count uses of one layer's experts by one token, and let those by earlier ones fade. Keys are layer * E + expert.
  void use(const int64_t* keys, int64_t count);
  // The same for several tokens one after the other: experts [tokens, top_k]; those of tier 0 are not used.
  void use_in_order(int layer, const uint8_t* tiers, const int32_t* experts, int64_t tokens, int64_t top_k);
  // scores[i]: less the tokens until the next use expected of keys[i] while `layer` runs; 0 for negative keys.
  void score(const int64_t* keys, int64_t count, int layer, double* scores);

  int num_layers() const { return num_layers_; }
  int num_experts() const { return num_experts_; }
  int num_keys() const { return num_layers_ * num_experts_; }

 private:
  struct Rates {
    double over[kHalfLives];
  };
  static constexpr double kLeast = 1e-3;  // chances and weights below it are not told apart: none may become 0 for good

  double chance(const Rates& rates, const double* of_rates) const;
  void credit(const Rates& before, const double* of_rates);
  void learn();
  void weigh();
  void wait_times(int layer);

  int num_layers_, num_experts_;
  double no_favourites_, memory_;
  double kept_[kHalfLives], known_[kHalfLives] = {};  // known: the rates of an expert that every token so far used
  double weights_[kHalfLives + 1];                    // the last is of the forecast that all are used alike
  double of_rates_[kHalfLives], of_all_;              // the weights, made ready for `chance`
  double credits_[kHalfLives + 1] = {};               // of this pass's uses
  int64_t num_uses_ = 0, num_tokens_ = 1;             // of this pass
  std::vector<int64_t> seen_;                         // scratch of `use_in_order`
  std::vector<Rates> rates_;                          // by key
  std::vector<Rates> powers_, of_rates_at_;           // by token of the pass: kept to its power; of_rates for it
  std::vector<double> waits_;                         // by key: less the tokens between two uses
  std::vector<char> stale_;                           // by layer: its waits are older than its rates
};

}  // namespace hobbit
