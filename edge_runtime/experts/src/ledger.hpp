// Units of expert memory in two sizes under one byte budget: which are free, and which still hold memory of the system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace hobbit {

constexpr int64_t kLargeBytes = 256 << 10;  // from here on a broken huge page costs more than a spare unit

using Moves = std::vector<std::pair<int, int>>;  // (source, target)

// Cores whose planes take no bytes of their own are whole: they have room for them.
struct UnitSizes {
  int core_tier, full_tier;
  int64_t core_bytes, plane_bytes;

  // Planes an expert has at `tier`; tiers below the core's have none.
  int planes(int tier) const { return core_tier != full_tier && tier > core_tier ? (tier - core_tier) / 2 : 0; }
  int max_planes() const { return planes(full_tier); }
  int64_t full_bytes() const { return core_bytes + max_planes() * plane_bytes; }
};

// Free units of one size: warm ones still hold memory of the system, cold ones do not, but for those that are held
// ahead. The last freed is taken first: which one that is does not depend on what is held ahead.
class Units {
 public:
  Units(int count, int64_t size) : size_(size) { grow(count); }

  int64_t size() const { return size_; }
  int count() const { return count_; }
  int num_used() const { return count_ - int(warm.size()) - int(cold.size()); }
  int64_t touched_bytes() const { return (count_ - int64_t(cold.size()) + num_ahead_) * size_; }
  int64_t held_bytes() const { return (count_ - int64_t(cold.size())) * size_; }  // without those held ahead
  int num_ahead() const { return num_ahead_; }
  bool next_lacks_memory() const { return warm.empty() && !ahead_[size_t(cold.back())]; }

  int take();
  int cool();    // let the system have the memory of the last freed unit; returns it
  int let_go();  // the same of the unit held ahead that would be taken last
  std::vector<int> hold_ahead(int64_t more);  // count so many more cold units; returns all that do, the next one first
  void inherit(const Units& before);          // none is used here: those that hold memory there are held ahead here
  void grow(int count);
  Moves shrink(int count, std::vector<int> used);  // keep units below `count`; moves for used ones past it

  std::vector<int> warm, cold;

 private:
  void forget_ahead(int unit) { num_ahead_ -= ahead_[size_t(unit)], ahead_[size_t(unit)] = false; }

  int64_t size_;
  int count_ = 0, num_ahead_ = 0;
  std::vector<bool> ahead_;      // of all units
  std::vector<int> ahead_last_;  // where to look for those held ahead, the one taken last at the end
};

// What is wanted at once: units, or bytes of whatever size.
struct Need {
  int cores, planes;
  int64_t bytes = 0;

  int64_t total(const UnitSizes& sizes) const { return bytes + cores * sizes.core_bytes + planes * sizes.plane_bytes; }
};

// What is free, or would be: whoever looks for room adds to it what could go.
struct Room {
  UnitSizes sizes;
  int64_t fresh;      // bytes of the budget that no unit holds
  int64_t kept;       // bytes of free units that stay as they are, where the other size is wanted
  int cores, planes;  // free units that hold memory

  bool holds(const Need& need) const;
};

// Memory of a free unit that must go back to the system, because the other size needs the bytes.
struct Discard {
  bool is_plane;
  int unit;
};

// Used bytes never exceed the budget, and neither do touched bytes: a unit that was written keeps its memory when it is
// freed, for the next expert of its size; if the other size needs it, it is listed in `discards`.
class Ledger {
 public:
  Ledger(UnitSizes sizes, int64_t budget_bytes, int64_t max_experts);

  const UnitSizes& sizes() const { return sizes_; }
  int64_t budget_bytes() const { return budget_; }
  int64_t max_experts() const { return max_experts_; }
  int num_cores() const { return cores_.count(); }
  int64_t used_bytes() const { return cores_.num_used() * cores_.size() + planes_.num_used() * planes_.size(); }
  int64_t free_bytes() const { return budget_ - slack_ - used_bytes(); }
  Room room() const;
  int64_t touched_bytes() const { return cores_.touched_bytes() + planes_.touched_bytes(); }
  int64_t core_capacity(int64_t budget_bytes) const;
  int64_t plane_capacity(int64_t budget_bytes) const;

  int take_core() { return take(cores_, planes_); }
  int take_plane() { return take(planes_, cores_); }
  void free_core(int unit) { cores_.warm.push_back(unit); }
  void free_plane(int unit) { planes_.warm.push_back(unit); }

  // Change the budget, which must hold what is used; returns moves of cores and of planes.
  std::pair<Moves, Moves> resize(int64_t budget_bytes, std::vector<int> cores, std::vector<int> planes);
  void hold_back();                       // leave some bytes unused, see `slack`
  // Count what nobody holds of the budget as held, before it is used: of so many more cores at most, and of as many
  // planes as then fit. Returns all units held ahead, the next ones first: whoever calls this takes their memory.
  std::pair<std::vector<int>, std::vector<int>> hold_ahead(int64_t cores);
  void start_over(int64_t budget_bytes);  // none is used, and none holds memory

  bool can_inherit(const Ledger& before) const;
  void inherit(const Ledger& before);  // take over memory of the same units, used or not, as held ahead

  const Units& cores() const { return cores_; }
  const Units& planes() const { return planes_; }
  std::vector<Discard> discards;

 private:
  bool is_mixed() const { return sizes_.plane_bytes > 0 && sizes_.full_bytes() >= kLargeBytes; }
  int64_t slack(int64_t budget_bytes) const;
  int take(Units& units, Units& other);
  void discard(Units& units, int unit) { discards.push_back({&units == &planes_, unit}); }
  Moves fit(Units& units, int64_t count, std::vector<int> used);

  UnitSizes sizes_;
  int64_t max_experts_, budget_ = 0, slack_ = 0;
  bool holds_back_ = false;
  Units cores_, planes_;
};

}  // namespace hobbit
