#include "slot_table.hpp"

#include <algorithm>
#include <unordered_map>

namespace hobbit {
namespace {

int count(const std::vector<uint8_t>& flags) { return int(std::count(flags.begin(), flags.end(), uint8_t(1))); }

}  // namespace

SlotTable::SlotTable(Ledger& ledger, TableArrays arrays, int num_layers, int num_experts)
    : ledger_(ledger), arrays_(arrays), num_layers_(num_layers), num_experts_(num_experts),
      max_planes_(ledger.sizes().max_planes()), masked_(size_t(num_layers) * size_t(num_experts)) {
  const size_t slots = size_t(ledger.max_experts());
  for (std::vector<uint8_t>* each : {&pinned_, &reading_, &prefetched_, &held_}) each->resize(slots);
  planes_.resize(slots * size_t(max_planes_));
  start_over(ledger.budget_bytes());
}

void SlotTable::start_over(int64_t budget_bytes) {
  ledger_.start_over(budget_bytes);
  const size_t keys = masked_.size();
  std::fill_n(arrays_.tiers, keys, uint8_t(0));
  std::fill_n(arrays_.slots, keys, kFree);
  std::fill_n(arrays_.keys, pinned_.size(), int64_t(kFree));
  for (std::vector<uint8_t>* each : {&pinned_, &reading_, &prefetched_, &held_, &masked_})
    std::fill(each->begin(), each->end(), uint8_t(0));
  any_masked_ = false;
}

int SlotTable::num_resident() const {
  const size_t keys = masked_.size();
  return int(keys) - int(std::count(arrays_.tiers, arrays_.tiers + keys, uint8_t(0)));
}

int SlotTable::num_pinned() const { return count(pinned_); }
int SlotTable::num_reading() const { return count(reading_); }

std::vector<int> SlotTable::planes_of(int slot) const {
  const int* first = planes_.data() + size_t(slot) * size_t(max_planes_);
  return {first, first + held_[size_t(slot)]};
}

int SlotTable::resident_planes(int slot) const {
  const uint8_t tier = arrays_.tiers[arrays_.keys[slot]];
  return tier ? ledger_.sizes().planes(tier) : -1;
}

int64_t SlotTable::lacking_bytes(const std::vector<int>& slots) const {
  const UnitSizes& sizes = ledger_.sizes();
  int64_t total = 0;
  for (const int slot : slots) {
    const int resident = resident_planes(slot);
    total += (held_[size_t(slot)] - std::max(resident, 0)) * sizes.plane_bytes + (resident < 0 ? sizes.core_bytes : 0);
  }
  return total;
}

Found SlotTable::lookup(int layer, const uint8_t* tiers) {
  const size_t first = size_t(layer) * size_t(num_experts_);
  const uint8_t* held = arrays_.tiers + first;
  const int32_t* slots = arrays_.slots + first;
  Found found;
  for (int expert = 0; expert < num_experts_; ++expert) {
    const uint8_t wanted = tiers[expert];
    if (!wanted) continue;
    const int slot = slots[expert];
    if (held[expert] >= wanted) {
      found.ready_experts.push_back(expert);
      found.ready_slots.push_back(slot);
      pinned_[size_t(slot)] = true;
      ++tally_.hits[wanted];
    } else if (is_reading(slot)) {
      found.late_slots.push_back(slot);
      pinned_[size_t(slot)] = true;
      ++tally_.late[wanted];
    } else {
      found.missing.push_back(expert);
      tally_.upgrades += slot != kFree;
      ++tally_.misses[wanted];
    }
  }
  for (const int slot : found.ready_slots) tally_.prefetch_used += take_prefetched(slot);
  for (const int slot : found.late_slots) tally_.prefetch_late += take_prefetched(slot);
  lift_mask(layer);
  return found;
}

int SlotTable::hit_all(int layer, const uint8_t* tiers) {
  const size_t first = size_t(layer) * size_t(num_experts_);
  const uint8_t* held = arrays_.tiers + first;
  int tier = 0, lookups = 0;
  for (int expert = 0; expert < num_experts_; ++expert) {
    if (!tiers[expert]) continue;
    if (held[expert] < tiers[expert] || (tier && tier != tiers[expert])) return 0;
    tier = tiers[expert];
    ++lookups;
  }
  if (!tier) return 0;
  tally_.hits[tier] += lookups;
  for (int expert = 0; expert < num_experts_; ++expert)
    if (tiers[expert]) tally_.prefetch_used += take_prefetched(arrays_.slots[first + size_t(expert)]);
  lift_mask(layer);
  return tier;
}

std::vector<int> SlotTable::claim(int layer, const std::vector<int>& experts, const uint8_t* tiers, bool prefetch,
                                  Scorer& scorer) {
  const int32_t* row = arrays_.slots + size_t(layer) * size_t(num_experts_);
  const auto lacking = [&](int expert) { return missing_bytes(row[expert], tiers[expert]); };
  Need need{0, 0};
  Keep held;
  for (const int expert : experts) {
    need.planes += ledger_.sizes().planes(tiers[expert]);
    if (row[expert] == kFree) {
      ++need.cores;
      continue;
    }
    need.planes -= held_[size_t(row[expert])];
    held.push_back(row[expert]);
  }
  make_room(need, layer, held, scorer);
  // residents waiting for planes hold all memory: let the later ones go so that the first can proceed
  if (!held.empty() && lacking(experts[0]) > ledger_.free_bytes())
    make_room(need, layer, row[experts[0]] == held[0] ? Keep{held[0]} : Keep{}, scorer);
  std::vector<int> claimed;
  for (const int expert : experts) {
    if (lacking(expert) > ledger_.free_bytes()) break;
    claimed.push_back(occupy(layer, expert, tiers[expert], prefetch));
  }
  if (prefetch) tally_.prefetch_issued += int64_t(claimed.size());
  return claimed;
}

int64_t SlotTable::missing_bytes(int slot, int tier) const {
  const UnitSizes& sizes = ledger_.sizes();
  const int planes = sizes.planes(tier);
  if (slot == kFree) return sizes.core_bytes + planes * sizes.plane_bytes;
  return (planes - held_[size_t(slot)]) * sizes.plane_bytes;
}

int SlotTable::occupy(int layer, int expert, int tier, bool prefetch) {
  const size_t key = size_t(layer) * size_t(num_experts_) + size_t(expert);
  int slot = arrays_.slots[key];
  if (slot == kFree) {
    slot = ledger_.take_core();
    arrays_.keys[slot] = int64_t(key);
    arrays_.slots[key] = slot;
  }
  uint8_t& held = held_[size_t(slot)];
  for (const int planes_wanted = ledger_.sizes().planes(tier); held < planes_wanted; ++held)
    planes(slot)[held] = ledger_.take_plane();
  reading_[size_t(slot)] = true;
  pinned_[size_t(slot)] |= uint8_t(!prefetch);
  prefetched_[size_t(slot)] = prefetch;
  return slot;
}

void SlotTable::set_ready(int slot) {
  tier_of(slot) = uint8_t(ledger_.sizes().core_tier + 2 * held_[size_t(slot)]);
  reading_[size_t(slot)] = false;
}

void SlotTable::drop(int slot) {
  tally_.prefetch_wasted += prefetched_[size_t(slot)];
  prefetched_[size_t(slot)] = reading_[size_t(slot)] = false;
  const int resident = resident_planes(slot);
  if (resident >= 0) return cut(slot, resident);
  pinned_[size_t(slot)] = false;
  arrays_.slots[arrays_.keys[slot]] = kFree;
  arrays_.keys[slot] = kFree;
  cut(slot, 0);
  ledger_.free_core(slot);
}

void SlotTable::cut(int slot, int count) {
  uint8_t& held = held_[size_t(slot)];
  for (int i = count; i < held; ++i) ledger_.free_plane(planes(slot)[i]);
  held = std::min(held, uint8_t(count));
}

void SlotTable::truncate(int slot) {
  tier_of(slot) = uint8_t(tier_of(slot) - 2);
  cut(slot, held_[size_t(slot)] - 1);
  ++tally_.truncated;
}

void SlotTable::evict(int slot) {
  tier_of(slot) = 0;
  arrays_.slots[arrays_.keys[slot]] = kFree;
  arrays_.keys[slot] = kFree;
  cut(slot, 0);
  ledger_.free_core(slot);
  ++tally_.evicted;
  tally_.prefetch_wasted += prefetched_[size_t(slot)];
  prefetched_[size_t(slot)] = false;
}

void SlotTable::unpin_all() {
  std::fill(pinned_.begin(), pinned_.end(), uint8_t(0));
  if (any_masked_) std::fill(masked_.begin(), masked_.end(), uint8_t(0));
  any_masked_ = false;
}

void SlotTable::lift_mask(int layer) {
  if (any_masked_) std::fill_n(masked_.begin() + int64_t(layer) * num_experts_, num_experts_, uint8_t(0));
}

void SlotTable::mask(int layer, int expert) {
  masked_[size_t(layer) * size_t(num_experts_) + size_t(expert)] = true;
  any_masked_ = true;
}

void SlotTable::reconcile(const std::vector<int>& live) {
  std::vector<bool> busy(reading_.size(), false);
  for (const int slot : live) busy[size_t(slot)] = true;
  for (int slot = 0; slot < num_slots(); ++slot)
    if (reading_[size_t(slot)] && !busy[size_t(slot)]) drop(slot);
  unpin_all();
}

std::pair<Moves, Moves> SlotTable::resize(int64_t budget_bytes, Scorer& scorer) {
  make_room({0, 0, ledger_.budget_bytes() - budget_bytes}, 0, {}, scorer);
  std::vector<int> cores, planes_used;
  for (int slot = 0; slot < num_slots(); ++slot) {
    if (arrays_.keys[slot] != kFree) cores.push_back(slot);
    for (int i = 0; i < held_[size_t(slot)]; ++i) planes_used.push_back(planes(slot)[i]);
  }
  std::pair<Moves, Moves> moves = ledger_.resize(budget_bytes, std::move(cores), std::move(planes_used));
  for (const auto& [source, target] : moves.first) {
    arrays_.keys[target] = std::exchange(arrays_.keys[source], int64_t(kFree));
    prefetched_[size_t(target)] = std::exchange(prefetched_[size_t(source)], uint8_t(0));
    arrays_.slots[arrays_.keys[target]] = target;
    std::copy_n(planes(source), max_planes_, planes(target));
    held_[size_t(target)] = std::exchange(held_[size_t(source)], uint8_t(0));
  }
  std::unordered_map<int, int> moved(moves.second.begin(), moves.second.end());
  for (int slot = 0; !moved.empty() && slot < num_slots(); ++slot)
    for (int i = 0; i < held_[size_t(slot)]; ++i)
      if (const auto to = moved.find(planes(slot)[i]); to != moved.end()) planes(slot)[i] = to->second;
  return moves;
}

int64_t SlotTable::take_prefetched(int slot) { return std::exchange(prefetched_[size_t(slot)], uint8_t(0)); }

}  // namespace hobbit
