#include "token_layer.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "at_once.hpp"

namespace hobbit {
namespace {

int64_t clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

TokenLayer::TokenLayer(const Parts& parts, TokenModel model)
    : reads_(parts.reads), table_(parts.reads.table()), forecast_(parts.forecast),
      router_(parts.router), compute_(parts.compute), waiter_(parts.waiter), outside_(parts.outside),
      model_(std::move(model)), place_(model_.has_shared.size(), -1) {
  const size_t experts = size_t(table_.num_experts()), layers = size_t(table_.num_layers());
  if (router_.experts() != experts || model_.has_shared.size() != layers || model_.top_k < 1 ||
      model_.top_k > experts || (forecast_ != nullptr && size_t(forecast_->num_keys()) != layers * experts))
    throw std::invalid_argument("token layer: the parts are of different models");
  if (forecast_ != nullptr) scorer_.emplace(table_, *forecast_);
  for (size_t i = 0; i < model_.sparse.size(); ++i) place_.at(size_t(model_.sparse[i])) = int(i);
  for (Choice* one : {&choice_, &coming_})
    one->ids.resize(model_.top_k), one->weights.resize(model_.top_k), one->tiers.resize(experts);
  state_.resize(compute_.hidden());
}

template <class Work> void TokenLayer::timed(int64_t& ns, Work work) {
  const int64_t started = clock_ns();
  outside_.run(work);
  ns += clock_ns() - started;
}

Served TokenLayer::run(int layer, void* frame, const int32_t* token, const float* expert_out, const PassMode& mode,
                       float* out) {
  require_experts(layer);
  if (forecast_ == nullptr) throw std::invalid_argument("token layer: the eviction rule is not native");
  Call call{layer, frame, token, mode, out};
  timed(times_.trunk_ns, [&] { call.row = compute_.run_layer(size_t(layer), frame, expert_out); });
  decide(call, choose(layer, call.row.router_logits, token, choice_));
  return serve(call);
}

Served TokenLayer::serve(int layer, void* frame, const int32_t* ids, const float* weights, const uint8_t* tiers,
                         const PassMode& mode, Decided& decided, float* out) {
  require_experts(layer);
  Call call{layer, frame, nullptr, mode, out};
  call.decided = &decided;
  call.row = compute_.row(frame);
  std::copy_n(ids, model_.top_k, choice_.ids.begin());
  std::copy_n(weights, model_.top_k, choice_.weights.begin());
  std::copy_n(tiers, choice_.tiers.size(), choice_.tiers.begin());
  return serve(call);
}

void TokenLayer::require_experts(int layer) const {
  if (layer < 0 || size_t(layer) >= place_.size() || place_[size_t(layer)] < 0)
    throw std::invalid_argument("token layer: there are no experts");
}

Served TokenLayer::serve(Call& call) {
  try {
    if (!call.mode.reads_ahead && serve_residents(call)) return Served::whole;
    const Served served = stream(call);
    if (served != Served::whole) reads_.abort(call.mode.read_timeout_s, waiter_);
    return served;
  } catch (...) {
    reads_.abort(call.mode.read_timeout_s, waiter_);
    throw;
  }
}

void TokenLayer::note_use(const Call& call) {
  if (call.decided != nullptr) return call.decided->note_use();
  const int64_t first = int64_t(call.layer) * table_.num_experts();
  if (call.mode.uses != nullptr)
    for (const int32_t expert : choice_.ids) ++call.mode.uses[first + expert];
  keys_.clear();
  const bool by_rank = call.mode.decider != nullptr && call.mode.decider->uses_in_order();
  for (size_t k = 0; by_rank && k < choice_.ids.size(); ++k)
    if (choice_.weights[k] != 0) keys_.push_back(first + choice_.ids[k]);
  for (size_t e = 0; !by_rank && e < choice_.tiers.size(); ++e)
    if (choice_.tiers[e]) keys_.push_back(first + int64_t(e));
  forecast_->use(keys_.data(), int64_t(keys_.size()));
  if (call.mode.beside == nullptr) return;
  ForecastScorer scorer(*call.mode.beside, *forecast_);
  if (serve_at_once(*call.mode.beside, call.layer, choice_.tiers.data(), scorer))
    throw std::runtime_error("token layer: nothing may be evicted for its experts. Use more memory.");
}

// All the layer asks for is in memory, and nothing is read before it was computed: then no slot has to be pinned.
bool TokenLayer::serve_residents(Call& call) {
  const uint8_t* tiers = choice_.tiers.data();
  if (!table_.hit_all(call.layer, tiers)) return false;
  if (call.mode.evicts) reads_.cancel_stale(call.layer, tiers);
  if (call.mode.notes_residents) note_use(call);
  std::vector<int> experts, slots;
  for (int expert = 0; expert < table_.num_experts(); ++expert)
    if (tiers[expert]) experts.push_back(expert), slots.push_back(table_.slot_of(call.layer, expert));
  timed(times_.experts_ns, [&] {
    compute_.begin(call.row.x, choice_.ids.data(), choice_.weights.data(), choice_.tiers.size());
  });
  call.has_looked = true;  // nothing is read ahead
  compute(call, experts, slots);
  finish(call);
  return true;
}

// As stream.py: residents first, reading the others meanwhile.
Served TokenLayer::stream(Call& call) {
  const int layer = call.layer;
  if (call.mode.collects) collect_others();
  reads_.cancel_stale(layer, choice_.tiers.data());
  note_use(call);
  Found found = table_.lookup(layer, choice_.tiers.data());
  awaited_ = std::move(found.late_slots), missing_ = std::move(found.missing);
  for (const int slot : awaited_) reads_.promote(slot);
  start_reads(call);
  const bool has_resident = !found.ready_slots.empty();
  const bool gains = call.decided != nullptr ? call.decided->looks_later
                                             : call.mode.depth > 0 && layer != model_.sparse.back();
  if (!has_resident || !gains) look_by_router(call);
  timed(times_.experts_ns, [&] {
    compute_.begin(call.row.x, choice_.ids.data(), choice_.weights.data(), choice_.tiers.size());
  });
  std::vector<int> handed_out;
  if (has_resident) {
    compute(call, found.ready_experts, found.ready_slots);
    handed_out = std::move(found.ready_slots);
  }
  while (true) {
    for (const int slot : handed_out) table_.unpin(slot);
    start_reads(call);
    const Served served = gather(call);
    if (served != Served::whole) return served;
    if (ready_.empty()) break;
    handed_out = std::move(ready_);
    std::vector<int> experts;
    for (const int slot : handed_out) experts.push_back(table_.expert_in(slot));
    compute(call, experts, handed_out);
  }
  finish(call);
  return Served::whole;
}

// A batch for each tier, the deepest first. Behind the layer's first one runs what every token passes; if it was of
// residents, their sum says what may come next.
void TokenLayer::compute(Call& call, const std::vector<int>& experts, const std::vector<int>& slots) {
  std::vector<int> mine, places;
  for (int tier = kNumTiers - 1, left = int(experts.size()); tier > 0 && left > 0; --tier) {
    mine.clear(), places.clear();
    for (size_t i = 0; i < experts.size(); ++i)
      if (choice_.tiers[size_t(experts[i])] == tier) mine.push_back(experts[i]), places.push_back(slots[i]);
    if (mine.empty()) continue;
    left -= int(mine.size());
    compute_at(tier, mine, places);
    run_shared(call);
    if (!call.has_looked) look_behind_residents(call);
  }
}

void TokenLayer::compute_at(int tier, const std::vector<int>& experts, const std::vector<int>& slots) {
  const SlotPlaces& places = reads_.places();
  batch_.assign(experts.begin(), experts.end());
  segments_.resize(4 * slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] < 0 || slots[i] >= places.num_cores) throw std::logic_error("token layer: a slot has no memory");
    std::copy_n(places.cores + 4 * size_t(slots[i]), 4, segments_.data() + 4 * i);
  }
  timed(times_.experts_ns, [&] { compute_.run_experts(tier, segments_.data(), batch_.data(), batch_.size()); });
}

void TokenLayer::start_reads(const Call& call) {
  if (missing_.empty()) return;
  const std::vector<int> slots = reads_.start(call.layer, missing_, choice_.tiers.data(), kNow, scorer_of(call));
  awaited_.insert(awaited_.end(), slots.begin(), slots.end());
  missing_.erase(missing_.begin(), missing_.begin() + ptrdiff_t(slots.size()));
}

// Takes what finished; waits only if there is nothing to compute yet.
Served TokenLayer::gather(const Call& call) {
  ready_.clear();
  if (!awaited_.empty()) {
    const Served served = take(call, 0);
    if (served != Served::whole) return served;
    start_reads(call);
  }
  while (ready_.empty() && !(awaited_.empty() && missing_.empty())) {
    const int64_t started = clock_ns();
    const Served served = take(call, call.mode.read_timeout_s);
    times_.stall_ns += clock_ns() - started;
    if (served != Served::whole) return served;
    start_reads(call);
  }
  return Served::whole;
}

Served TokenLayer::take(const Call& call, double timeout_s) {
  const std::vector<FinishedRead> finished = reads_.collect(timeout_s, waiter_);
  if (finished.empty() && timeout_s > 0) {
    num_awaited_ = reads_.num_in_flight();
    return Served::timed_out;
  }
  Served served = Served::whole;
  for (const auto& [read, outcome] : finished) {
    const auto found = std::find(awaited_.begin(), awaited_.end(), read.slot);
    const bool is_bad = outcome.fault != Fault::none && outcome.fault != Fault::cancelled;
    if (is_bad) failed_.push_back({read, outcome});
    if (found == awaited_.end()) continue;
    awaited_.erase(found);
    if (is_bad) {
      if (served == Served::whole) fatal_ = failed_.size() - 1;
      served = Served::read_failed;
    } else if (outcome.fault == Fault::cancelled) {
      missing_.push_back(read.expert);  // given up when it was not wanted, and still under way
    } else if (table_.tiers(call.layer)[read.expert] < choice_.tiers[size_t(read.expert)]) {
      missing_.push_back(read.expert);  // a read begun earlier, for a lower tier
      table_.unpin(read.slot);
    } else {
      ready_.push_back(read.slot);
    }
  }
  return served;
}

void TokenLayer::run_shared(Call& call) {
  if (call.ran_shared || !model_.has_shared[size_t(call.layer)]) return;
  call.ran_shared = true;
  timed(times_.trunk_ns, [&] { call.shared = compute_.run_shared(size_t(call.layer), call.frame); });
}

void TokenLayer::finish(Call& call) {
  run_shared(call);
  timed(times_.experts_ns, [&] { compute_.end(call.out); });
  add_shared(call);
}

void TokenLayer::add_shared(const Call& call) {
  if (call.shared == nullptr) return;
  for (size_t i = 0; i < state_.size(); ++i) call.out[i] += call.shared[i];
}

}  // namespace hobbit
