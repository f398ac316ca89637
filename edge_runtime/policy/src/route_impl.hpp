// The functions of route.hpp, included by one translation unit per instruction set.
#pragma once
#include "float_math.hpp"
#include "route.hpp"

namespace hobbit {
namespace {

bool all_finite(const float* values, size_t n) {
  int32_t top = 0;  // magnitudes order as integers, with inf and nan on top
  for (size_t i = 0; i < n; ++i) {
    const int32_t bits = float_bits(values[i]) & 0x7fffffff;
    top = bits > top ? bits : top;
  }
  return top < 0x7f800000;
}

// The K greatest keys in order, equal ones by number, into ids and best; false if a key is not finite, and then the ids
// still name K experts.
bool choose_greatest(const float* keys, size_t experts, size_t top_k, int32_t* ids, float* best) {
  size_t found = 0;
  bool finite = true;
  for (size_t e = 0; e < experts; ++e) {
    const float v = keys[e];
    finite &= (float_bits(v) & 0x7fffffff) < 0x7f800000;
    if (found == top_k && !(v > best[top_k - 1])) continue;
    size_t at = found < top_k ? found++ : top_k - 1;
    for (; at > 0 && v > best[at - 1]; --at) ids[at] = ids[at - 1], best[at] = best[at - 1];
    ids[at] = int32_t(e), best[at] = v;
  }
  return finite;
}

float greatest(const float* values, size_t n) {
  float top = values[0];
  for (size_t i = 1; i < n; ++i) top = values[i] > top ? values[i] : top;
  return top;
}

// Softmax over E logits, the K greatest, their probabilities in that order, divided by their sum if normalised.
void route_plain(const RouterRule& rule, const float* logits, size_t top_k, int32_t* ids, float* weights) {
  if (!choose_greatest(logits, rule.experts, top_k, ids, weights)) {
    for (size_t k = 0; k < top_k; ++k) weights[k] = not_a_number();
    return;
  }
  const float top = weights[0];
  float total = 0.0f;
  if (!rule.normalise)
    for (size_t e = 0; e < rule.experts; ++e) total += exp_poly(logits[e] - top);
  for (size_t k = 0; k < top_k; ++k) {
    weights[k] = exp_poly(weights[k] - top);
    if (rule.normalise) total += weights[k];
  }
  for (size_t k = 0; k < top_k; ++k) weights[k] /= total;
}

// The weights are a softmax over the chosen logits, whatever else the rule does to them.
bool is_softmax_of_chosen(const RouterRule& rule) {
  return rule.score == Score::softmax && (rule.over_chosen || (rule.normalise && rule.epsilon == 0 && rule.floor == 0));
}

void scores_of(const RouterRule& rule, const float* logits, float* scores) {
  const size_t n = rule.experts;
  switch (rule.score) {
    case Score::sigmoid:
      for (size_t e = 0; e < n; ++e) scores[e] = sigmoid_poly(logits[e]);
      return;
    case Score::sqrt_softplus:
      for (size_t e = 0; e < n; ++e) scores[e] = __builtin_sqrtf(softplus_poly(logits[e]));
      return;
    case Score::softmax:
      const float top = greatest(logits, n);
      float total = 0.0f;
      for (size_t e = 0; e < n; ++e) scores[e] = exp_poly(logits[e] - top);
      for (size_t e = 0; e < n; ++e) total += scores[e];
      for (size_t e = 0; e < n; ++e) scores[e] /= total;
  }
}

float group_score(const RouterRule& rule, const float* keys) {
  const size_t size = rule.experts / rule.groups;
  if (!rule.two_best) return greatest(keys, size);
  float first = keys[0] > keys[1] ? keys[0] : keys[1], second = keys[0] > keys[1] ? keys[1] : keys[0];
  for (size_t i = 2; i < size; ++i) {
    if (keys[i] > first) second = first, first = keys[i];
    else if (keys[i] > second) second = keys[i];
  }
  return first + second;
}

// Moves the keys of groups that are not chosen below all others, their order kept. `scores` is scratch of [groups].
void lower_other_groups(const RouterRule& rule, float* keys, float* scores) {
  const size_t size = rule.experts / rule.groups;
  for (size_t g = 0; g < rule.groups; ++g) scores[g] = group_score(rule, keys + g * size);
  float low = keys[0];
  for (size_t e = 1; e < rule.experts; ++e) low = keys[e] < low ? keys[e] : low;
  const float below = greatest(keys, rule.experts) - low + 1.0f;
  for (size_t g = 0; g < rule.groups; ++g) {
    size_t better = 0;  // groups before this one; equal ones by number
    for (size_t o = 0; o < rule.groups; ++o) better += scores[o] > scores[g] || (scores[o] == scores[g] && o < g);
    if (better < rule.chosen_groups) continue;
    for (size_t e = g * size; e < (g + 1) * size; ++e) keys[e] -= below;
  }
}

// What the choice compares into keys [E]. Logits where nothing is added to scores and no group is: they order as the
// scores do, and are not rounded to the same ones.
void keys_of(const RouterRule& rule, const RouterRow& row, const float* scores, float* scratch, float* keys) {
  const size_t n = rule.experts;
  const bool of_logits = rule.over_chosen || (row.selection_bias == nullptr && rule.groups == 0);
  const float* from = of_logits ? row.logits : scores;
  for (size_t e = 0; e < n; ++e) keys[e] = from[e] + (row.selection_bias ? row.selection_bias[e] : 0.0f);
  if (rule.groups) lower_other_groups(rule, keys, scratch);
}

// By falling logit, equal ones by number: sums over the chosen are taken in this order, whoever chose them.
void greatest_logit_first(const float* logits, size_t top_k, int32_t* ids) {
  const auto before = [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); };
  for (size_t k = 1; k < top_k; ++k) {
    const int32_t id = ids[k];
    size_t at = k;
    for (; at > 0 && before(id, ids[at - 1]); --at) ids[at] = ids[at - 1];
    ids[at] = id;
  }
}

// By falling weight, equal ones as they stand. The magnitude counts: a factor of an expert may be negative.
void heaviest_first(size_t top_k, int32_t* ids, float* weights) {
  for (size_t k = 1; k < top_k; ++k) {
    const int32_t id = ids[k];
    const float weight = weights[k];
    size_t at = k;
    for (; at > 0 && __builtin_fabsf(weight) > __builtin_fabsf(weights[at - 1]); --at) ids[at] = ids[at - 1], weights[at] = weights[at - 1];
    ids[at] = id, weights[at] = weight;
  }
}

// Sparsemixer: the softmax of each of the chosen, the greatest logit first, among those not chosen before it that lie
// within `near` of the best of them. The distance is relative, in the operations of the model's authors.
void weights_among_rivals(const RouterRule& rule, const float* logits, size_t top_k, const int32_t* ids, float* weights) {
  for (size_t k = 0; k < top_k; ++k) {
    const auto is_taken = [&](size_t e) {
      for (size_t i = 0; i < k; ++i)
        if (ids[i] == int32_t(e)) return true;
      return false;
    };
    float top = logits[ids[k]], total = 0.0f;
    for (size_t e = 0; e < rule.experts; ++e)
      if (logits[e] > top && !is_taken(e)) top = logits[e];
    for (size_t e = 0; e < rule.experts; ++e) {
      const float z = logits[e], size = __builtin_fabsf(z);
      const bool is_far = (top - z) / (size > top ? size : top) > rule.near;  // false for 0 of 0
      if (!is_far && !is_taken(e)) total += exp_poly(z - top);
    }
    weights[k] = exp_poly(logits[ids[k]] - top) / total;
  }
}

// Weights of the chosen, which are sorted heaviest first.
void weights_of(const RouterRule& rule, const RouterRow& row, const float* scores, size_t top_k, int32_t* ids,
                float* weights) {
  greatest_logit_first(row.logits, top_k, ids);
  float total = 0.0f;
  if (rule.is_sparsemixer()) {
    weights_among_rivals(rule, row.logits, top_k, ids, weights);
  } else if (is_softmax_of_chosen(rule)) {
    float top = row.logits[ids[0]];
    for (size_t k = 1; k < top_k; ++k) top = row.logits[ids[k]] > top ? row.logits[ids[k]] : top;
    for (size_t k = 0; k < top_k; ++k) weights[k] = exp_poly(row.logits[ids[k]] - top), total += weights[k];
    for (size_t k = 0; k < top_k; ++k) weights[k] /= total;
  } else {
    for (size_t k = 0; k < top_k; ++k) weights[k] = scores[ids[k]], total += weights[k];
    if (rule.normalise)
      for (size_t k = 0; k < top_k; ++k) weights[k] /= (total > rule.floor ? total : rule.floor) + rule.epsilon;
  }
  if (rule.scale != 1.0f)
    for (size_t k = 0; k < top_k; ++k) weights[k] *= rule.scale;
  if (row.expert_scale)
    for (size_t k = 0; k < top_k; ++k) weights[k] *= row.expert_scale[ids[k]];
  heaviest_first(top_k, ids, weights);
}

void weigh(const RouterRule& rule, const RouterRow& row, size_t top_k, float* scratch, int32_t* ids, float* weights) {
  if (!all_finite(row.logits, rule.experts)) {
    for (size_t k = 0; k < top_k; ++k) weights[k] = not_a_number();
    return;
  }
  if (!is_softmax_of_chosen(rule) && !rule.is_sparsemixer()) scores_of(rule, row.logits, scratch);
  weights_of(rule, row, scratch, top_k, ids, weights);
}

void route(const RouterRule& rule, const RouterRow& row, size_t top_k, float* scratch, int32_t* ids, float* weights) {
  const bool adds_nothing = !row.selection_bias && !row.expert_scale && !row.table_row;
  if (adds_nothing && rule.is_plain_softmax()) return route_plain(rule, row.logits, top_k, ids, weights);
  if (row.table_row) {
    for (size_t k = 0; k < top_k; ++k) ids[k] = row.table_row[k];
    return weigh(rule, row, top_k, scratch, ids, weights);
  }
  if (!all_finite(row.logits, rule.experts)) {
    choose_greatest(row.logits, rule.experts, top_k, ids, weights);
    for (size_t k = 0; k < top_k; ++k) weights[k] = not_a_number();
    return;
  }
  float *scores = scratch, *keys = scratch + rule.experts;
  scores_of(rule, row.logits, scores);
  keys_of(rule, row, scores, keys + rule.experts, keys);
  choose_greatest(keys, rule.experts, top_k, ids, weights);
  weights_of(rule, row, scores, top_k, ids, weights);
}

void preference(const RouterRule& rule, const RouterRow& row, float* scratch, float* out) {
  if (!all_finite(row.logits, rule.experts)) {
    for (size_t e = 0; e < rule.experts; ++e) out[e] = row.logits[e];
    return;
  }
  scores_of(rule, row.logits, scratch);
  keys_of(rule, row, scratch, scratch + rule.experts, out);
}

}  // namespace
}  // namespace hobbit

#define HOBBIT_ROUTE_FUNCTIONS(symbol, name) const RouteFunctions symbol = {name, route, weigh, preference}
