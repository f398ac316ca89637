#include "slot_reads.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace hobbit {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Reads> auto find_slot(Reads& reads, int slot) {
  return std::find_if(reads.begin(), reads.end(), [&](const SlotRead& one) { return one.slot == slot; });
}

}  // namespace

SlotReads::SlotReads(SlotTable& table, Ledger& ledger, ReadPort& port, SlotMemory& memory, int core_segments,
                     std::vector<double> bounds_s)
    : table_(table), ledger_(ledger), port_(port), memory_(memory), core_segments_(core_segments),
      bounds_s_(std::move(bounds_s)) {
  tally_.buckets.resize(bounds_s_.size() + 1);
}

std::vector<int> SlotReads::slots_in_flight() const {
  std::vector<int> slots;
  for (const SlotRead& one : reads_) slots.push_back(one.slot);
  return slots;
}

bool SlotReads::memory_moved() {
  reached_[0] = reached_[1] = 0;
  if (!reads_.empty()) return false;
  places_ = {};
  return true;
}

const SlotPlaces& SlotReads::places() {
  if (places_.cores == nullptr) places_ = memory_.places();
  return places_;
}

std::vector<int> SlotReads::start(int layer, const std::vector<int>& experts, const uint8_t* tiers, int priority,
                                  Scorer& scorer) {
  if (experts.empty()) return {};
  try {
    const std::vector<int> slots = table_.claim(layer, experts, tiers, priority != kNow, scorer);
    if (!ledger_.discards.empty()) memory_.discard();
    if (priority == kNext) ahead_.insert(ahead_.end(), slots.begin(), slots.end());
    for (size_t i = 0; i < slots.size(); ++i) read(slots[i], layer, experts[i], priority);
    return slots;
  } catch (...) {
    reconcile();
    throw;
  }
}

// Everything the slot lacks as one read: all of it, or only the planes beyond those it is resident with.
void SlotReads::read(int slot, int layer, int expert, int priority) {
  places();
  const UnitSizes& sizes = ledger_.sizes();
  const int resident = table_.resident_planes(slot);
  const std::vector<int> planes = table_.planes_of(slot);
  if (slot >= places_.num_cores) throw std::logic_error("reads: a slot has no memory");
  uint64_t* segments = places_.cores + 4 * size_t(slot);
  Target targets[kMaxSegments];
  size_t count = 0;
  if (resident < 0) targets[count++] = {reinterpret_cast<uint8_t*>(segments[0]), size_t(sizes.core_bytes)};
  for (int i = std::max(resident, 0); i < int(planes.size()); ++i) {
    if (planes[size_t(i)] >= places_.num_planes) throw std::logic_error("reads: a plane has no memory");
    const uint64_t address = places_.planes[4 * size_t(planes[size_t(i)])];
    segments[core_segments_ + i] = address;
    targets[count++] = {reinterpret_cast<uint8_t*>(address), size_t(sizes.plane_bytes)};
  }
  follow(slot, planes, resident);
  const int first = resident < 0 ? 0 : core_segments_ + resident, last = core_segments_ + int(planes.size());
  reads_.reserve(reads_.size() + 1);  // nothing may fail once the read is queued
  const uint64_t number = port_.submit({priority, layer, expert, first, last, targets, count});
  reads_.push_back({slot, layer, expert, first, last, number});
}

void SlotReads::follow(int slot, const std::vector<int>& planes, int resident) {
  std::vector<int> fresh;
  for (size_t i = size_t(std::max(resident, 0)); i < planes.size(); ++i)
    if (planes[i] >= reached_[1]) fresh.push_back(planes[i]);
  if (slot < reached_[0] && fresh.empty()) return;
  memory_.follow(slot, fresh);
  reached_[0] = std::max(reached_[0], slot + 1);
  for (const int unit : fresh) reached_[1] = std::max(reached_[1], unit + 1);
}

void SlotReads::cancel_stale(int layer, const uint8_t* tiers) {
  std::vector<int> kept;
  for (const int slot : ahead_) {
    const auto found = find_slot(reads_, slot);
    if (found == reads_.end()) continue;
    if (found->layer != layer) {
      kept.push_back(slot);
    } else if (!tiers[found->expert] && !in_order && port_.cancel(found->number)) {
      reads_.erase(found);
      table_.drop(slot);
    }
  }
  ahead_ = std::move(kept);
}

void SlotReads::promote(int slot) {
  const auto found = find_slot(reads_, slot);
  if (found == reads_.end()) throw std::out_of_range("reads: nothing is under way for this slot");
  port_.promote(found->number, kNow);
}

std::vector<FinishedRead> SlotReads::collect(double timeout_s, ReadWaiter& waiter) {
  std::vector<FinishedRead> finished;
  const double deadline = seconds() + timeout_s;
  while (!reads_.empty()) {
    const std::vector<Outcome> done = waiter.wait(port_, in_order ? 1.0 : timeout_s);
    take(done, finished);
    if (in_order && !done.empty()) continue;
    timeout_s = timeout_s > 0 ? std::max(deadline - seconds(), 0.0) : 0.0;
    if (!finished.empty() || done.empty()) break;  // else only reads came that were given up long ago
  }
  return finished;
}

void SlotReads::take(const std::vector<Outcome>& done, std::vector<FinishedRead>& finished) {
  for (const Outcome& outcome : done) {
    port_.forget(outcome.id);
    const auto found = std::find_if(reads_.begin(), reads_.end(),
                                    [&](const SlotRead& one) { return one.number == outcome.id; });
    if (found == reads_.end()) continue;
    const SlotRead read = *found;
    reads_.erase(found);
    if (outcome.fault == Fault::none) {
      const int64_t ns = outcome.finished_ns - outcome.started_ns;
      const auto bound = std::lower_bound(bounds_s_.begin(), bounds_s_.end(), double(ns) / 1e9);
      ++tally_.buckets[size_t(bound - bounds_s_.begin())];
      tally_.ns += ns;
      table_.set_ready(read.slot);
    } else {
      table_.drop(read.slot);
    }
    finished.push_back({read, outcome});
  }
}

void SlotReads::abort(double timeout_s, ReadWaiter& waiter) {
  for (size_t i = 0; i < reads_.size();)
    if (!in_order && port_.cancel(reads_[i].number)) reads_.erase(reads_.begin() + ptrdiff_t(i));
    else ++i;
  const double deadline = seconds() + timeout_s;
  std::vector<FinishedRead> over;
  do {
    take(waiter.wait(port_, reads_.empty() ? 0.0 : std::max(deadline - seconds(), 0.0)), over);
  } while (!reads_.empty() && seconds() < deadline);
  reconcile();
}

// Free what was claimed and is not being read; nothing stays pinned.
void SlotReads::reconcile() {
  ahead_.clear();
  table_.reconcile(slots_in_flight());
  if (!ledger_.discards.empty()) memory_.discard();
}

}  // namespace hobbit
