// What a router chooses, what a policy makes of it, and looking ahead: which experts coming layers may use, and reads for them.
#include <algorithm>

#include "token_layer.hpp"

namespace hobbit {

// The router's choice at the full tier; an expert whose weight is exactly 0 adds nothing and is not read.
const float* TokenLayer::choose(int layer, const float* logits, const int32_t* token, Choice& choice) {
  const size_t place = size_t(place_[size_t(layer)]), experts = choice.tiers.size();
  if (model_.logit_bias != nullptr) {
    biased_.assign(logits, logits + experts);
    for (size_t e = 0; e < experts; ++e) biased_[e] += model_.logit_bias[place * experts + e];
    logits = biased_.data();
  }
  router_.choose(place, logits, token, model_.top_k, choice.ids.data(), choice.weights.data());
  std::fill(choice.tiers.begin(), choice.tiers.end(), uint8_t(0));
  for (size_t k = 0; k < model_.top_k; ++k)
    if (choice.weights[k] != 0) choice.tiers[size_t(choice.ids[k])] = uint8_t(model_.tier);
  return logits;
}

void TokenLayer::decide(const Call& call, const float* logits) {
  routed_ = choice_.ids;
  if (call.mode.decider == nullptr) return;
  const ChoiceRow row = choice_.row();
  const Changes found = call.mode.decider->decide(size_t(call.layer), logits, shown(call.mode, call.layer), row);
  changes_.total.substituted += found.substituted;
  changes_.total.skipped += found.skipped;
  changes_.total.route_changed += found.route_changed;
  for (size_t k = 0; found.substituted && k < model_.top_k; ++k)
    if (const int tier = row.tiers[row.ids[k]]; row.weights[k] != 0 && tier < model_.tier) ++changes_.substituted_to[tier];
}

// The tiers at which what was chosen for a coming layer would be asked for.
void TokenLayer::predict(const PassMode& mode, int layer, const float* logits) {
  if (mode.decider == nullptr) return;
  mode.decider->predict(size_t(layer), logits, shown(mode, layer), coming_.row());
}

// Before anything was computed.
void TokenLayer::look_by_router(Call& call) {
  call.has_looked = true;
  if (call.decided == nullptr) return look(call, call.row.seen);
  if (call.decided->looks) call.decided->look_ahead(nullptr);
}

void TokenLayer::look_behind_residents(Call& call) {
  call.has_looked = true;
  const int coming = model_.sparse[size_t(place_[size_t(call.layer)]) + 1];
  auto work = [&] {
    compute_.so_far(call.out);
    add_shared(call);
    compute_.expect(size_t(call.layer) + 1, size_t(coming), call.frame, call.out, state_.data());
  };
  outside_.run(work);
  if (call.decided == nullptr) return look(call, state_.data());
  call.decided->look_ahead(state_.data());
}

// As prefetcher.py: reads for the first coming layer that lacks something, by its router applied to a state.
void TokenLayer::look(const Call& call, const float* state) {
  const size_t first = size_t(place_[size_t(call.layer)]) + 1;
  const size_t count = std::min(size_t(std::max(call.mode.depth, 0)), model_.sparse.size() - first);
  if (count == 0) return;
  const size_t experts = coming_.tiers.size();
  logits_.resize(count * experts);
  batch_.assign(model_.sparse.begin() + ptrdiff_t(first), model_.sparse.begin() + ptrdiff_t(first + count));
  auto work = [&] { compute_.look_ahead(state, batch_.data(), count, logits_.data()); };
  outside_.run(work);
  for (size_t i = 0; i < count; ++i) {
    const int layer = model_.sparse[first + i];
    predict(call.mode, layer, choose(layer, logits_.data() + i * experts, call.token, coming_));
    if (prefetch_predicted(layer)) return;
  }
}

// Keeps what is expected of a layer from eviction and starts reading what is not there; returns how many lack something.
int TokenLayer::prefetch_predicted(int layer) {
  const std::vector<int> order(coming_.ids.begin(), coming_.ids.end());
  const Predicted found = table_.mask_predicted(layer, order, coming_.tiers.data());
  if (!found.absent.empty()) reads_.start(layer, found.absent, coming_.tiers.data(), kNext, *scorer_);
  return found.lacking;
}

std::vector<int> TokenLayer::look_first(void* frame, const int32_t* token, const PassMode& mode, bool reads) {
  const int layer = model_.sparse.front();
  logits_.resize(coming_.tiers.size());
  auto work = [&] {
    compute_.expect(0, size_t(layer), frame, nullptr, state_.data());
    compute_.look_ahead(state_.data(), &layer, 1, logits_.data());
  };
  outside_.run(work);
  predict(mode, layer, choose(layer, logits_.data(), token, coming_));
  std::vector<int> lacking;
  for (int expert = 0; expert < table_.num_experts(); ++expert)
    if (table_.tiers(layer)[expert] < coming_.tiers[size_t(expert)]) lacking.push_back(expert);
  if (!reads || lacking.empty()) return lacking;
  collect_others();
  prefetch_predicted(layer);
  return lacking;
}

// Takes reads that are over while no layer waits for any.
void TokenLayer::collect_others() {
  for (const FinishedRead& one : reads_.collect(0, waiter_))
    if (one.outcome.fault != Fault::none && one.outcome.fault != Fault::cancelled) failed_.push_back(one);
}

}  // namespace hobbit
