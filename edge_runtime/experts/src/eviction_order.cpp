// Who goes when room is needed: whole experts, or planes of them, by the scores of the eviction rule; and who is kept.
#include <algorithm>
#include <functional>
#include <limits>

#include "slot_table.hpp"

namespace hobbit {
namespace {

constexpr double kMasked = 1e30;
constexpr double kNever = std::numeric_limits<double>::infinity();

using Candidate = std::pair<double, int>;  // score, slot: ties go to the lower slot

// Candidates from the lowest on, each sorted only when it is asked for.
class Queue {
 public:
  explicit Queue(std::vector<Candidate> candidates) : heap_(std::move(candidates)) {
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  bool empty() const { return heap_.empty(); }
  Candidate pop() {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const Candidate lowest = heap_.back();
    heap_.pop_back();
    return lowest;
  }
  void push(Candidate one) {
    heap_.push_back(one);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

 private:
  std::vector<Candidate> heap_;
};

}  // namespace

void SlotTable::make_room(const Need& need, int layer, const Keep& keep, Scorer& scorer) {
  if (ledger_.room().holds(need)) return;
  for (const Step& step : choose_steps(need, layer, keep, scorer)) step.is_whole ? evict(step.slot) : truncate(step.slot);
}

Predicted SlotTable::mask_predicted(int layer, const std::vector<int>& order, const uint8_t* tiers) {
  const size_t first = size_t(layer) * size_t(num_experts_);
  Predicted found;
  std::vector<uint8_t> seen(size_t(num_experts_), uint8_t(0));
  const auto take = [&](int expert) {
    if (!tiers[expert] || std::exchange(seen[size_t(expert)], uint8_t(1))) return;
    mask(layer, expert);
    if (arrays_.tiers[first + size_t(expert)] >= tiers[expert]) return;
    ++found.lacking;
    if (!is_reading(arrays_.slots[first + size_t(expert)])) found.absent.push_back(expert);
  };
  for (const int expert : order) take(expert);
  for (int expert = 0; expert < num_experts_; ++expert) take(expert);
  return found;
}

std::vector<SlotTable::Step> SlotTable::choose_steps(const Need& need, int layer, const Keep& keep, Scorer& scorer) const {
  const Scores scores = scorer.all(layer);
  if (ledger_.sizes().plane_bytes && !scores.tops.empty()) return steps_by_score(need.total(ledger_.sizes()), layer, keep, scores, scorer);
  return steps_from_coldest_half(need, keep, scores);
}

std::vector<Candidate> SlotTable::evictable(const std::vector<double>& scores, const Keep& keep) const {
  std::vector<Candidate> found;
  found.reserve(scores.size());
  for (int slot = 0; slot < int(scores.size()); ++slot) {
    const int64_t key = arrays_.keys[slot];
    if (key == kFree || pinned_[size_t(slot)] || reading_[size_t(slot)] || scores[size_t(slot)] == kNever) continue;
    if (keeps_cores_ && !held_[size_t(slot)]) continue;
    if (std::find(keep.begin(), keep.end(), slot) != keep.end()) continue;
    found.emplace_back(scores[size_t(slot)] + (masked_[size_t(key)] ? kMasked : 0), slot);
  }
  return found;
}

// As many whole experts as there are cores to find go, coldest first; then the colder half of what may go loses its
// planes, coldest first; then whole experts go again. A core made of freed planes costs pages from the system.
// Where cores are kept, all that may go loses planes, coldest first, and that is all.
std::vector<SlotTable::Step> SlotTable::steps_from_coldest_half(const Need& need, const Keep& keep, const Scores& scores) const {
  Room room = ledger_.room();
  const bool has_planes = room.sizes.plane_bytes > 0;
  std::vector<Candidate> all = evictable(scores.cores, keep);
  const size_t half = keeps_cores_ ? all.size() : (all.size() + 1) / 2;
  Queue queue(std::move(all));
  std::vector<Step> steps;
  std::vector<int> coldest;
  std::vector<uint8_t> left = has_planes ? held_ : std::vector<uint8_t>(held_.size());
  const auto go_whole = [&](int slot) {
    steps.push_back({slot, true});
    ++room.cores;
    room.planes += left[size_t(slot)];
  };
  while (has_planes && !keeps_cores_ && room.cores < need.cores && !queue.empty() && !room.holds(need))
    go_whole(queue.pop().second);
  while (has_planes && !queue.empty() && coldest.size() < half && !room.holds(need)) {
    const int slot = queue.pop().second;
    coldest.push_back(slot);
    for (uint8_t& planes = left[size_t(slot)]; planes && !room.holds(need); --planes, ++room.planes)
      steps.push_back({slot, false});
  }
  room.kept = 0;  // rather a unit that changes its size than an expert that goes for nothing
  for (size_t i = 0; !keeps_cores_ && !room.holds(need) && (i < coldest.size() || !queue.empty()); ++i)
    go_whole(i < coldest.size() ? coldest[i] : queue.pop().second);
  return steps;
}

// Cores and planes go in one order, the lowest score first.
std::vector<SlotTable::Step> SlotTable::steps_by_score(int64_t wanted, int layer, const Keep& keep, const Scores& scores,
                                                      Scorer& scorer) const {
  const UnitSizes& sizes = ledger_.sizes();
  std::vector<double> tops = scores.cores;
  for (size_t slot = 0; slot < tops.size(); ++slot)
    if (held_[slot]) tops[slot] = scores.tops[slot];
  Queue queue(evictable(tops, keep));
  std::vector<Step> steps;
  std::vector<uint8_t> left = held_;
  int64_t free = ledger_.free_bytes();
  while (free < wanted && !queue.empty()) {
    const int slot = queue.pop().second;
    uint8_t& planes = left[size_t(slot)];
    steps.push_back({slot, planes == 0});
    free += planes ? sizes.plane_bytes : sizes.core_bytes;
    if (!planes) continue;
    --planes;
    if (!planes && keeps_cores_) continue;
    const double core = scores.cores[size_t(slot)];
    queue.push({planes ? scorer.top(layer, slot, sizes.core_tier + 2 * planes) : core, slot});
  }
  return steps;
}

}  // namespace hobbit
