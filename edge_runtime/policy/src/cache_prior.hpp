// Cache-Prior's decision for one token: what edge_runtime/policy/cache_prior.py decides with numpy.
#pragma once

#include <vector>

#include "layer_ports.hpp"
#include "router.hpp"

namespace hobbit {

// The bias of residents as a share of the logits' mean range; `keeps` ranks keep their place whatever is resident.
struct CachePriorRule {
  double bias;
  size_t keeps;
  int full;
};

// Sums [L] of the ranges of a layer's logits over its tokens, written here; `places` of its layers among the router's.
struct CachePriorState {
  double *ranges, *tokens;
  std::vector<int> places;  // -1: a layer without experts
};

class CachePriorDecider : public DeciderPort {
 public:
  CachePriorDecider(const CachePriorRule& rule, CachePriorState state, Router& router)
      : rule_(rule), state_(std::move(state)), router_(router) {}

  Changes decide(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;
  void predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;
  bool uses_in_order() const override { return true; }

 private:
  void choose(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row);

  CachePriorRule rule_;
  CachePriorState state_;
  Router& router_;
  std::vector<int32_t> order_, chosen_;  // experts by falling logits; those chosen, in that order
  std::vector<size_t> ranks_;
  std::vector<double> raised_;
};

}  // namespace hobbit
