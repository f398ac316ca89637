#include "router.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace hobbit {

Router::Router(const RouterRule& rule, const RouterTensors& tensors, const std::string& isa)
    : rule_(rule), by_logit_(rule), tensors_(tensors), functions_(route_functions(isa)), scratch_(route_scratch(rule.experts)) {
  by_logit_.groups = 0;
  by_logit_.near = -1;
}

RouterRow Router::row(size_t place, const float* logits) const {
  const size_t at = place * rule_.experts;
  return {logits, tensors_.selection_bias ? tensors_.selection_bias + at : nullptr,
          tensors_.expert_scale ? tensors_.expert_scale + at : nullptr, nullptr};
}

const int32_t* Router::table_row(size_t place, const RouterCall& call, size_t token) const {
  if (place >= tensors_.hashed) return nullptr;
  if (call.token_ids == nullptr) throw std::invalid_argument("route: a hashed layer chooses by token ids, none were given");
  if (call.top_k != tensors_.table_k)
    throw std::invalid_argument("route: a hashed layer has " + std::to_string(tensors_.table_k) + " experts a token");
  const int32_t id = call.token_ids[token];
  if (id < 0 || size_t(id) >= tensors_.vocabulary)
    throw std::invalid_argument("route: token " + std::to_string(id) + " is outside the vocabulary");
  return tensors_.table + (place * tensors_.vocabulary + size_t(id)) * tensors_.table_k;
}

void Router::route(size_t place, const RouterCall& call) {
  for (size_t t = 0; t < call.tokens; ++t) {
    RouterRow one = row(place, call.logits + t * rule_.experts);
    one.table_row = table_row(place, call, t);
    functions_.route(rule_, one, call.top_k, scratch_.data(), call.ids + t * call.top_k, call.weights + t * call.top_k);
  }
}

void Router::rank(const RouterCall& call) {
  for (size_t t = 0; t < call.tokens; ++t)
    functions_.route(by_logit_, {call.logits + t * rule_.experts, nullptr, nullptr, nullptr}, call.top_k, scratch_.data(),
                     call.ids + t * call.top_k, call.weights + t * call.top_k);
}

void Router::weigh(size_t place, const RouterCall& call) {
  for (size_t i = 0; i < call.tokens * call.top_k; ++i)
    if (call.ids[i] < 0 || size_t(call.ids[i]) >= rule_.experts)
      throw std::invalid_argument("weigh: there is no expert " + std::to_string(call.ids[i]));
  for (size_t t = 0; t < call.tokens; ++t)
    functions_.weigh(rule_, row(place, call.logits + t * rule_.experts), call.top_k, scratch_.data(),
                     call.ids + t * call.top_k, call.weights + t * call.top_k);
}

void Router::preference(size_t place, const float* logits, size_t tokens, float* out) {
  for (size_t t = 0; t < tokens; ++t)
    functions_.preference(rule_, row(place, logits + t * rule_.experts), scratch_.data(), out + t * rule_.experts);
}

double weight_among_rivals(const RouterRule& rule, const float* logits, int32_t expert, const std::vector<int32_t>& before) {
  const auto is_taken = [&](size_t e) { return std::find(before.begin(), before.end(), int32_t(e)) != before.end(); };
  double top = logits[expert], total = 0;
  for (size_t e = 0; e < rule.experts; ++e)
    if (!is_taken(e)) top = std::fmax(top, logits[e]);
  for (size_t e = 0; e < rule.experts; ++e)
    if (!is_taken(e) && !((top - logits[e]) / std::fmax(std::fabs(logits[e]), top) > rule.near))
      total += std::exp(logits[e] - top);
  return std::exp(logits[expert] - top) / total;
}

double score_ratio(Score score, double z, double first) {
  const auto softplus = [](double v) { return std::fmax(v, 0.0) + std::log1p(std::exp(-std::fabs(v))); };
  switch (score) {
    case Score::sigmoid: return (1 + std::exp(-first)) / (1 + std::exp(-z));
    case Score::sqrt_softplus: return std::sqrt(softplus(z) / softplus(first));
    default: return std::exp(z - first);
  }
}

}  // namespace hobbit
