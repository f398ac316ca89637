// A model's router: the rule with the numbers of its layers. Arrays belong to the caller, who keeps them.
#pragma once
#include <optional>
#include <vector>

#include "route.hpp"

namespace hobbit {

// Null where the rule has none. S sparse layers, of which the first H are hashed.
struct RouterTensors {
  const float* selection_bias;  // [S, E]
  const float* expert_scale;    // [S, E]
  const int32_t* table;         // [H, V, K]
  size_t layers, hashed, vocabulary, table_k;
};

// Rows of logits of one layer, and what the rule makes of them.
struct RouterCall {
  const float* logits;  // [tokens, E]
  const int32_t* token_ids;  // [tokens], or null: only hashed layers look
  size_t tokens, top_k;
  int32_t* ids;    // [tokens, K]
  float* weights;  // [tokens, K]
};

class Router {
 public:
  Router(const RouterRule& rule, const RouterTensors& tensors, const std::string& isa = "auto");

  const RouterRule& rule() const { return rule_; }
  size_t layers() const { return tensors_.layers; }

  // `place` of a sparse layer. Throws std::invalid_argument where a hashed layer lacks ids, or one is outside the table.
  void route(size_t place, const RouterCall& call);
  // By the logits alone: the choice takes the greatest, whatever a layer adds to them.
  void rank(const RouterCall& call);
  void weigh(size_t place, const RouterCall& call);  // ids in and out
  void preference(size_t place, const float* logits, size_t tokens, float* out);

 private:
  RouterRow row(size_t place, const float* logits) const;
  const int32_t* table_row(size_t place, const RouterCall& call, size_t token) const;

  RouterRule rule_, by_logit_;
  RouterTensors tensors_;
  const RouteFunctions& functions_;
  std::vector<float> scratch_;
};

// The weight sparsemixer gives an expert after `before` were chosen, in double (edge_runtime/base/spec/router.py).
double weight_among_rivals(const RouterRule& rule, const float* logits, int32_t expert, const std::vector<int32_t>& before);

// score(z) / score(first) of a rule's score function, in double: what an expert of logit z weighs against another.
double score_ratio(Score score, double z, double first);

}  // namespace hobbit
