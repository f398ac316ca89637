// The router's rule for one row of logits, compiled once for each instruction set; the bits are the same on all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hobbit {

enum class Score { softmax, sigmoid, sqrt_softplus };

// What a model's router does, the same for all layers (edge_runtime/base/spec/router.py).
struct RouterRule {
  size_t experts;
  Score score;
  bool over_chosen;  // softmax over the chosen logits alone
  bool normalise;
  float epsilon, scale;
  size_t groups, chosen_groups;  // groups 0: there are none
  bool two_best;                 // a group's score is the sum of its two best, not the best
  float near = -1;               // sparsemixer: distance of rivals from the best one; below 0: another rule
  float floor = 0;               // the sum that weights are divided by counts as this at least
  bool is_sparsemixer() const { return near >= 0; }
  // The rule every expert's logit alone decides: the choice compares logits, nothing is added to scores.
  bool is_plain_softmax() const { return score == Score::softmax && !over_chosen && groups == 0 && epsilon == 0 && floor == 0 && scale == 1 && !is_sparsemixer(); }
};

// A layer's numbers; null where the rule has none. `table_row`: the experts of the token at a hashed layer.
struct RouterRow {
  const float* logits;          // [E], bias included
  const float* selection_bias;  // [E]
  const float* expert_scale;    // [E]
  const int32_t* table_row;     // [K]
};

struct RouteFunctions {
  const char* name;
  // The K best experts, heaviest first (equal ones by logit, then by number), and their weights. A row with a logit that
  // is not finite gets NaN as its weights, so that the error shows in the output.
  void (*route)(const RouterRule& rule, const RouterRow& row, size_t top_k, float* scratch, int32_t* ids, float* weights);
  // Weights of experts given by the caller, in any order, which are sorted heaviest first.
  void (*weigh)(const RouterRule& rule, const RouterRow& row, size_t top_k, float* scratch, int32_t* ids, float* weights);
  // What the choice compares, [E]: greater is chosen first. Experts of other groups lie below all that may be chosen.
  void (*preference)(const RouterRule& rule, const RouterRow& row, float* scratch, float* out);
};

// Floats of scratch a row needs.
constexpr size_t route_scratch(size_t experts) { return 3 * experts; }

extern const RouteFunctions kRouteBase;
#if defined(__x86_64__)
extern const RouteFunctions kRouteAvx2, kRouteAvx512;
#endif
// Those this machine runs, the fastest first.
const std::vector<const RouteFunctions*>& available_route_functions();
// `name` is "auto" or one of them. Throws std::invalid_argument.
const RouteFunctions& route_functions(const std::string& name);

}  // namespace hobbit
