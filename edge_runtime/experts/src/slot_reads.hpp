// Reads into claimed slots of the host's memory, from the claim until a slot is ready to compute. See direct_reads.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../drive/src/read_port.hpp"
#include "slot_table.hpp"

namespace hobbit {

// Where units lie: addresses [count, 4]. Into those of cores, the addresses of their planes are written.
struct SlotPlaces {
  uint64_t* cores = nullptr;
  const uint64_t* planes = nullptr;
  int64_t num_cores = 0, num_planes = 0;
};

// The memory of the slots. Called only while table and reads agree; may throw.
class SlotMemory {
 public:
  virtual ~SlotMemory() = default;
  virtual SlotPlaces places() = 0;
  virtual void discard() = 0;  // give back what the ledger lists
  virtual void follow(int slot, const std::vector<int>& planes) = 0;  // units are read into that never were before
};

// Waits for reads, in slices in which the caller may be interrupted; may throw.
class ReadWaiter {
 public:
  virtual ~ReadWaiter() = default;
  virtual std::vector<Outcome> wait(ReadPort& port, double timeout_s) = 0;
};

// A read under way for a slot: segments `first` to `last` - 1 of an expert.
struct SlotRead {
  int slot, layer, expert, first, last;
  uint64_t number;
};

struct FinishedRead {
  SlotRead read;
  Outcome outcome;
};

struct ReadTally {
  std::vector<int64_t> buckets;  // by time, one more than bounds
  int64_t ns = 0;
};

// Joins table, memory and drive; every read under way is known here. Each call is whole: where one throws, what was
// claimed and is not being read is free again, and nothing stays pinned.
class SlotReads {
 public:
  // `core_segments`: segments of a core. `bounds_s`: upper bounds of the times reads are counted by.
  SlotReads(SlotTable& table, Ledger& ledger, ReadPort& port, SlotMemory& memory, int core_segments,
            std::vector<double> bounds_s);

  SlotTable& table() { return table_; }
  std::size_t num_in_flight() const { return reads_.size(); }
  std::vector<int> slots_in_flight() const;
  const ReadTally& tally() const { return tally_; }
  // Memory moves, or somebody begins to take it from the system. Returns whether its places are asked for anew: not while
  // it is being read into, when it never moves.
  bool memory_moved();
  const SlotPlaces& places();  // until the memory moves

  // Claim room for the first of `experts`, as many as fit, and start reading; returns their slots.
  std::vector<int> start(int layer, const std::vector<int>& experts, const uint8_t* tiers, int priority, Scorer& scorer);
  // Read no further for experts of a layer that were read ahead in vain, as far as they are not there yet.
  void cancel_stale(int layer, const uint8_t* tiers);
  void promote(int slot);  // someone waits for it now
  // Slots that became ready, or failed, after waiting for the first; none after the time.
  std::vector<FinishedRead> collect(double timeout_s, ReadWaiter& waiter);
  // Cancel queued reads and wait for the others; those that do not return in time keep their slot. Nothing stays pinned.
  void abort(double timeout_s, ReadWaiter& waiter);

  // For tests: whoever looks finds every read finished, and none is given up. Then it matters to nobody when they land.
  bool in_order = false;

 private:
  void read(int slot, int layer, int expert, int priority);
  void take(const std::vector<Outcome>& done, std::vector<FinishedRead>& finished);
  void reconcile();
  void follow(int slot, const std::vector<int>& planes, int resident);

  SlotTable& table_;
  Ledger& ledger_;
  ReadPort& port_;
  SlotMemory& memory_;
  const int core_segments_;
  const std::vector<double> bounds_s_;
  SlotPlaces places_;
  int reached_[2] = {0, 0};  // cores and planes below it were read into since the memory moved
  std::vector<SlotRead> reads_;
  std::vector<int> ahead_;  // slots read for a layer that was to come next
  ReadTally tally_;
};

}  // namespace hobbit
