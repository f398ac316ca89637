// The expected time until an expert's next use, from its use rates over several half-lives. See eviction/next_use.py.
#pragma once

#include <cstdint>
#include <vector>

namespace hobbit {

constexpr int kHalfLives = 4;

// Rates of use by expert, the weights of the forecasts they make, and what follows from both.
class UseForecast {
 public:
  // `half_life`: the shortest, in passes; each next is ten times as long. `memory`: passes the weights are learnt over.
  UseForecast(int num_layers, int num_experts, int top_k, double half_life, int memory);

  // Learn the weights from what the pass before used.
  void begin_pass();
  // Count uses of one layer's experts, and let those of its earlier passes fade. Keys are layer * E + expert.
  void use(const int64_t* keys, int64_t count);
  // scores[i]: less the passes until the next use expected of keys[i] while `layer` runs; 0 for negative keys.
  void score(const int64_t* keys, int64_t count, int layer, double* scores);

  int num_layers() const { return num_layers_; }
  int num_keys() const { return num_layers_ * num_experts_; }

 private:
  struct Rates {
    double over[kHalfLives];
  };
  static constexpr double kLeast = 1e-3;  // chances and weights below it are not told apart: none may become 0 for good

  double chance(const Rates& rates) const;
  void learn();
  void weigh();
  void wait_times(int layer);

  int num_layers_, num_experts_;
  double no_favourites_, memory_;
  double kept_[kHalfLives], known_[kHalfLives] = {};  // known: the rates of an expert that every pass so far used
  double weights_[kHalfLives + 1];                    // the last is of the forecast that all are used alike
  double of_rates_[kHalfLives], of_all_;              // the weights, made ready for `chance`
  std::vector<Rates> rates_, before_;                 // by key; those of this pass's uses, as they were before it
  std::vector<double> waits_;                         // by key: less the passes between two uses
  std::vector<char> stale_;                           // by layer: its waits are older than its rates
};

}  // namespace hobbit
