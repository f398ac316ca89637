#include "ledger.hpp"

#include <algorithm>
#include <iterator>

namespace hobbit {
namespace {

constexpr int64_t kSlackShare = 12, kKeptShare = 32, kMany = 16;

}  // namespace

// A unit whose memory goes to the other size leaves two broken huge pages, and the system zeroes each page of what comes
// in its place. Reads into such memory are slower from then on. So where one size is wanted, free units of the other stay
// as they are up to `kept` bytes, and room is made in the size that is wanted.
bool Room::holds(const Need& need) const {
  const int64_t more_cores = need.cores - cores, more_planes = need.planes - planes, none = 0;
  const int64_t lacking = std::max(more_cores, none) * sizes.core_bytes + std::max(more_planes, none) * sizes.plane_bytes;
  const int64_t spare = std::max(-more_cores, none) * sizes.core_bytes + std::max(-more_planes, none) * sizes.plane_bytes;
  return lacking + need.bytes <= fresh + (need.bytes ? spare : std::max(spare - kept, none));
}

int Units::take() {
  std::vector<int>& from = warm.empty() ? cold : warm;
  const int unit = from.back();
  from.pop_back();
  forget_ahead(unit);
  return unit;
}

int Units::cool() {
  const int unit = warm.back();
  warm.pop_back();
  cold.push_back(unit);
  return unit;
}

int Units::let_go() {
  while (!ahead_[size_t(ahead_last_.back())]) ahead_last_.pop_back();
  const int unit = ahead_last_.back();
  forget_ahead(unit);
  return unit;
}

std::vector<int> Units::hold_ahead(int64_t more) {
  std::vector<int> found;
  for (auto unit = cold.rbegin(); unit != cold.rend(); ++unit) {
    if (!ahead_[size_t(*unit)] && more-- <= 0) continue;
    num_ahead_ += !ahead_[size_t(*unit)];
    ahead_[size_t(*unit)] = true;
    found.push_back(*unit);
  }
  ahead_last_.assign(cold.rbegin(), cold.rend());
  return found;
}

void Units::inherit(const Units& before) {
  ahead_.assign(size_t(count_), true);
  for (const int unit : before.cold) ahead_[size_t(unit)] = before.ahead_[size_t(unit)];
  num_ahead_ = int(std::count(ahead_.begin(), ahead_.end(), true));
  ahead_last_.assign(cold.rbegin(), cold.rend());
}

void Units::grow(int count) {
  std::vector<int> added;
  for (int unit = count - 1; unit >= count_; --unit) added.push_back(unit);
  cold.insert(cold.begin(), added.begin(), added.end());
  count_ = count;
  ahead_.resize(size_t(count), false);
}

Moves Units::shrink(int count, std::vector<int> used) {
  std::vector<int> targets;
  for (const std::vector<int>* free : {&warm, &cold})
    std::copy_if(free->begin(), free->end(), std::back_inserter(targets), [&](int unit) { return unit < count; });
  std::sort(targets.rbegin(), targets.rend());
  std::sort(used.begin(), used.end());
  Moves moves;
  std::vector<bool> taken(size_t(count), false);
  for (const int source : used) {
    if (source < count) continue;
    moves.emplace_back(source, targets.back());
    taken[size_t(targets.back())] = true;
    forget_ahead(targets.back());
    targets.pop_back();
  }
  for (std::vector<int>* free : {&warm, &cold})
    free->erase(std::remove_if(free->begin(), free->end(), [&](int u) { return u >= count || taken[size_t(u)]; }),
                free->end());
  for (int unit = count; unit < count_; ++unit) forget_ahead(unit);
  count_ = count;
  ahead_.resize(size_t(count));
  ahead_last_.assign(cold.rbegin(), cold.rend());
  return moves;
}

Ledger::Ledger(UnitSizes sizes, int64_t budget_bytes, int64_t max_experts)
    : sizes_(sizes), max_experts_(max_experts), cores_(0, 0), planes_(0, 0) {
  start_over(budget_bytes);
}

void Ledger::hold_back() {
  holds_back_ = true;
  slack_ = slack(budget_);
}

void Ledger::start_over(int64_t budget_bytes) {
  budget_ = budget_bytes;
  slack_ = slack(budget_bytes);
  cores_ = Units(int(core_capacity(budget_bytes)), sizes_.core_bytes);
  planes_ = Units(int(plane_capacity(budget_bytes)), sizes_.plane_bytes);
  discards.clear();
}

int64_t Ledger::core_capacity(int64_t budget_bytes) const {
  return std::min(budget_bytes / sizes_.core_bytes, max_experts_);
}

int64_t Ledger::plane_capacity(int64_t budget_bytes) const {
  const int64_t most = max_experts_ * sizes_.max_planes();
  return sizes_.plane_bytes ? std::min(budget_bytes / sizes_.plane_bytes, most) : most;
}

// Bytes kept for free units that hold memory already, where there are two sizes of large units and room is made without
// regard to which size is wanted. How many of each are used goes up and down then; without slack nearly every read takes
// its memory from units of the other size, and the system zeroes each page of it: half the drive's rate at 1 MiB a unit.
int64_t Ledger::slack(int64_t budget_bytes) const {
  const int64_t full = sizes_.full_bytes();
  if (!holds_back_ || !is_mixed() || budget_bytes >= max_experts_ * full || budget_bytes < kMany * full) return 0;
  return budget_bytes / kSlackShare;
}

Room Ledger::room() const {
  const int64_t fresh = budget_ - slack_ - cores_.held_bytes() - planes_.held_bytes();
  const int64_t kept = is_mixed() && !holds_back_ ? budget_ / kKeptShare : 0;
  return {sizes_, fresh, kept, int(cores_.warm.size()), int(planes_.warm.size())};
}

// What is held ahead goes before what was used: then the units that are free are those that would be without it.
int Ledger::take(Units& units, Units& other) {
  if (units.next_lacks_memory()) {
    int64_t over = touched_bytes() + units.size() - budget_;
    for (Units* from : {&other, &units})
      for (; over > 0 && from->num_ahead(); over -= from->size()) discard(*from, from->let_go());
    for (; over > 0 && !other.warm.empty(); over -= other.size()) discard(other, other.cool());
  }
  return units.take();
}

std::pair<std::vector<int>, std::vector<int>> Ledger::hold_ahead(int64_t cores) {
  std::pair<std::vector<int>, std::vector<int>> found;
  found.first = cores_.hold_ahead(std::min(cores, (budget_ - touched_bytes()) / cores_.size()));
  if (planes_.size()) found.second = planes_.hold_ahead((budget_ - touched_bytes()) / planes_.size());
  return found;
}

bool Ledger::can_inherit(const Ledger& before) const {
  return used_bytes() == 0 && budget_ == before.budget_ && cores_.size() == before.cores_.size() &&
         planes_.size() == before.planes_.size() && cores_.count() == before.cores_.count() &&
         planes_.count() == before.planes_.count();
}

void Ledger::inherit(const Ledger& before) {
  cores_.inherit(before.cores_);
  if (planes_.size()) planes_.inherit(before.planes_);
}

Moves Ledger::fit(Units& units, int64_t count, std::vector<int> used) {
  if (count < units.count()) return units.shrink(int(count), std::move(used));
  units.grow(int(count));
  return {};
}

std::pair<Moves, Moves> Ledger::resize(int64_t budget_bytes, std::vector<int> cores, std::vector<int> planes) {
  budget_ = budget_bytes;
  slack_ = slack(budget_bytes);
  std::pair<Moves, Moves> moves{fit(cores_, core_capacity(budget_bytes), std::move(cores)),
                                fit(planes_, plane_capacity(budget_bytes), std::move(planes))};
  for (Units* units : {&planes_, &cores_})
    while (touched_bytes() > budget_ && units->num_ahead()) discard(*units, units->let_go());
  for (Units* units : {&planes_, &cores_})
    while (touched_bytes() > budget_ && !units->warm.empty()) discard(*units, units->cool());
  return moves;
}

}  // namespace hobbit
