// HOBBIT's decision for one token: what edge_runtime/policy/hobbit.py decides rank by rank.
#pragma once

#include "layer_ports.hpp"

namespace hobbit {

// Of normalised weight above an expert up to `t1` it is served at the full tier, up to `t2` at the low one, else skipped.
struct HobbitRule {
  double t1, t2;
  int low, full;
};

class HobbitDecider : public DeciderPort {
 public:
  explicit HobbitDecider(const HobbitRule& rule) : rule_(rule) {}

  Changes decide(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;
  void predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;

 private:
  int tier_of_use(double importance, int resident) const;

  HobbitRule rule_;
};

}  // namespace hobbit
