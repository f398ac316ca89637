// The rate-distortion choice for a single token: which tier, or the skip, for each of its experts. Arithmetic in double,
// in a fixed order; what it means is in edge_runtime/policy/rate_distortion/policy.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "route.hpp"

namespace hobbit {

constexpr int kTierRows = 17;  // tiers are 0 (absent) to 16

// Arrays of the caller, which outlive the choice. C choices: the tiers that may be served, then the skip.
struct ChoiceArrays {
  const double* losses;   // [L, E, C] nats for a squared weight of 1
  const double* missing;  // [kTierRows, C] bytes from each resident tier to each choice
  const double* held;     // [kTierRows] bytes a resident holds at each tier
  const double* shares;   // [L] loss of another expert in the place, in losses of the skip
  const double* factors_of_experts;  // [L, E] each expert's factor of its weight; null: there are none
  double* sums;           // [L, E] use rates: squared weights seen, times factor over tokens
  double* factors;        // [L]
  double* tokens;         // [L]
};

struct ChoiceShape {
  int layers, experts;
  std::vector<uint8_t> served;  // [C] the tiers, deepest first, then 0
  int full;                     // nothing is lost from this tier on
  double horizon;               // tokens ahead whose uses a read is credited with
  double keep;                  // what a token leaves of a use rate
  RouterRule rule;              // of the model: what another expert in a place weighs
  int base;                     // every expert is resident at this tier at least; 0: not so
  int upgrades;                 // experts of a layer that a token deepens in the background at most
};

struct Prices {
  double read, opportunity_cost;  // nats a byte
};

// One token at one layer, as the router chose.
struct TokenRow {
  int layer, top_k;
  const float* logits;      // [E]
  const float* preference;  // [E] what the router's choice compares
  const int32_t* ids;       // [K], heaviest first
  const float* weights;     // [K]
  const uint8_t* resident;  // [E] tiers
};

// What is to run, written by the choice.
struct TokenDecision {
  int32_t* ids;    // [K]
  float* weights;  // [K]
  uint8_t* tiers;  // [E], zeros before
  uint8_t* later;  // [E], zeros before: tiers to be read in the background, where there is a base
};

struct DecisionCounts {
  int substituted = 0, skipped = 0, changed = 0;
  double loss = 0, read_bytes = 0, held_bytes = 0;
};

class OneToken {
 public:
  OneToken(const ChoiceArrays& arrays, ChoiceShape shape);

  // Count the token's uses, choose, and write the decision.
  DecisionCounts decide(const TokenRow& row, const Prices& prices, const TokenDecision& decision);
  // Only the tiers [E] that would be served; `tiers` holds zeros before.
  void predict_tiers(const TokenRow& row, const Prices& prices, uint8_t* tiers);
  // Nats a token that a byte of the layer's residents [E tiers] is expected to save, on average; nothing: there are none.
  std::optional<double> value_of_residents(int layer, const uint8_t* resident) const;
  const ChoiceShape& shape() const { return shape_; }

 private:
  void note(const TokenRow& row);
  double choose(const TokenRow& row, const Prices& prices);
  double upgrade(const TokenRow& row, const Prices& prices, uint8_t* later) const;
  int choose_expert(const TokenRow& row, const Prices& prices, int rank, double scale) const;
  double factor(int layer, int expert) const;
  double among_rivals(const TokenRow& row, int expert, int rank, const std::vector<double>& given, const TokenDecision& decision) const;
  void fill(const TokenRow& row, const std::vector<int>& empty, std::vector<double>& given, const TokenDecision& decision);
  int next_resident(const TokenRow& row, const std::vector<int>& taken) const;

  ChoiceArrays arrays_;
  ChoiceShape shape_;
  std::vector<int> row_of_;  // choice a resident tier amounts to
  std::vector<uint8_t> served_;
  std::vector<double> losses_;
};

}  // namespace hobbit
