// Which expert is in which slot, at which tier, pinned or being read; who goes when room is needed. No I/O, no lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ledger.hpp"

namespace hobbit {

constexpr int kFree = -1;
constexpr int kNumTiers = 17;

// Arrays that Python sees: tiers [L, E], slots [L, E] and keys [max_experts], owned by the caller.
struct TableArrays {
  uint8_t* tiers;
  int32_t* slots;
  int64_t* keys;
};

// What happened since the table was made; lookups by the tier served.
struct Tally {
  int64_t hits[kNumTiers] = {}, late[kNumTiers] = {}, misses[kNumTiers] = {};
  int64_t upgrades = 0, evicted = 0, truncated = 0;
  int64_t prefetch_issued = 0, prefetch_used = 0, prefetch_late = 0, prefetch_wasted = 0;
};

// Where the experts a layer asked for are; experts ascending.
struct Found {
  std::vector<int> ready_experts, ready_slots, late_slots, missing;
};

// Scores of residents, lowest goes first: of whole experts, and of their deepest planes where the rule has an opinion.
struct Scores {
  std::vector<double> cores, tops;
};

// What a coming layer is expected to lack: how many experts, and those of them that are not being read.
struct Predicted {
  int lacking = 0;
  std::vector<int> absent;
};

// The eviction rule. Called only while the table is whole; may throw.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual Scores all(int layer) = 0;
  virtual double top(int layer, int slot, int tier) = 0;  // of a slot cut to `tier`, which has planes left
};

// A slot is free, being read, or holds a resident expert; it may be pinned. It is a core of the ledger, with the planes
// its expert has beyond it. A resident whose deeper planes are being read stays resident at its tier meanwhile.
class SlotTable {
 public:
  SlotTable(Ledger& ledger, TableArrays arrays, int num_layers, int num_experts);

  int num_layers() const { return num_layers_; }
  int num_experts() const { return num_experts_; }
  int num_slots() const { return ledger_.num_cores(); }
  int num_resident() const;
  int num_pinned() const;
  int num_reading() const;
  const Tally& tally() const { return tally_; }
  Ledger& ledger() { return ledger_; }
  const int64_t* keys() const { return arrays_.keys; }                                   // of each slot, see TableArrays
  const uint8_t* tiers(int layer) const { return arrays_.tiers + int64_t(layer) * num_experts_; }  // by expert
  bool is_reading(int slot) const { return slot != kFree && reading_[std::size_t(slot)]; }
  std::vector<int> planes_of(int slot) const;
  int slot_of(int layer, int expert) const { return arrays_.slots[int64_t(layer) * num_experts_ + expert]; }
  int expert_in(int slot) const { return int(arrays_.keys[slot] % num_experts_); }
  int resident_planes(int slot) const;  // -1: its expert is not resident at all
  int64_t lacking_bytes(const std::vector<int>& slots) const;  // what their reads bring

  // Count a lookup of experts uint8 [E] (the tier each is served at, 0: not needed) and pin those that have what is
  // asked; a mask on the layer is lifted.
  Found lookup(int layer, const uint8_t* tiers);
  // The tier all of them are served at if they are resident, counted as hits and not pinned; else 0, and nothing happened.
  int hit_all(int layer, const uint8_t* tiers);
  // Give room to the first of `experts`, as many as fit after evicting; their slots are then being read.
  std::vector<int> claim(int layer, const std::vector<int>& experts, const uint8_t* tiers, bool prefetch, Scorer& scorer);

  void set_ready(int slot);  // its reads finished
  void drop(int slot);       // undo a failed or cancelled read
  void unpin(int slot) { pinned_[std::size_t(slot)] = false; }
  void unpin_all();          // and lift all masks
  void mask(int layer, int expert);
  // A coming layer is expected to use experts uint8 [E], at these tiers (0: not used): they are masked. Those of `order`
  // come first, in their order; all of it are experts there are.
  Predicted mask_predicted(int layer, const std::vector<int>& order, const uint8_t* tiers);
  void keep_cores() { keeps_cores_ = true; }  // from now on room is made of planes alone
  void reconcile(const std::vector<int>& live);  // drop reads that are not under way; nothing stays pinned or masked
  std::pair<Moves, Moves> resize(int64_t budget_bytes, Scorer& scorer);
  void start_over(int64_t budget_bytes);

 private:
  struct Step {
    int slot;
    bool is_whole;
  };
  using Keep = std::vector<int>;

  int* planes(int slot) { return planes_.data() + std::size_t(slot) * std::size_t(max_planes_); }
  uint8_t& tier_of(int slot) { return arrays_.tiers[arrays_.keys[slot]]; }
  int64_t missing_bytes(int slot, int tier) const;
  void lift_mask(int layer);
  int occupy(int layer, int expert, int tier, bool prefetch);
  void make_room(const Need& need, int layer, const Keep& keep, Scorer& scorer);
  std::vector<std::pair<double, int>> evictable(const std::vector<double>& scores, const Keep& keep) const;
  std::vector<Step> choose_steps(const Need& need, int layer, const Keep& keep, Scorer& scorer) const;
  std::vector<Step> steps_by_score(int64_t wanted, int layer, const Keep& keep, const Scores& scores, Scorer& scorer) const;
  std::vector<Step> steps_from_coldest_half(const Need& need, const Keep& keep, const Scores& scores) const;
  void cut(int slot, int count);
  void evict(int slot);
  void truncate(int slot);
  int64_t take_prefetched(int slot);  // 1 if its prefetch is asked for the first time now

  Ledger& ledger_;
  TableArrays arrays_;
  int num_layers_, num_experts_, max_planes_;
  bool any_masked_ = false, keeps_cores_ = false;
  std::vector<uint8_t> pinned_, reading_, prefetched_, held_, masked_;  // of slots; held: planes; masked: of keys
  std::vector<int> planes_;
  Tally tally_;
};

}  // namespace hobbit
