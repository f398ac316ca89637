// MoBiLE's little pass: what edge_runtime/policy/mobile.py decides in it.
#pragma once

#include "layer_ports.hpp"

namespace hobbit {

struct MobileRule {
  size_t little;  // experts of the little pass
  int full;
};

class MobileDecider : public DeciderPort {
 public:
  // `rankings` [L, K]: what the router of each layer chose, written here.
  MobileDecider(const MobileRule& rule, int32_t* rankings, size_t layers, size_t top_k)
      : rule_(rule), rankings_(rankings), layers_(layers), top_k_(top_k) {}

  Changes decide(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;
  void predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) override;
  bool uses_in_order() const override { return true; }

 private:
  MobileRule rule_;
  int32_t* rankings_;
  size_t layers_, top_k_;
};

}  // namespace hobbit
