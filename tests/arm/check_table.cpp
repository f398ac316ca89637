// A fixed pseudo-random history of the slot table; prints what it counted and a hash of its state. The output must be the
// same wherever it is compiled for. Exit 1 if the budget is overrun.
#include <cstdio>
#include <vector>

#include "../../edge_runtime/experts/src/slot_table.hpp"

using namespace hobbit;

namespace {

constexpr int kLayers = 4, kExperts = 16;

uint32_t state = 1;
uint32_t next(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

// Scores that change with every call; half of the time planes have scores too.
class RandomScorer : public Scorer {
 public:
  explicit RandomScorer(const SlotTable& table) : table_(table) {}
  Scores all(int) override {
    Scores found;
    for (int slot = 0; slot < table_.num_slots(); ++slot) found.cores.push_back(next(50) / 7.0);
    if (next(2))
      for (const double core : found.cores) found.tops.push_back(core / 2);
    return found;
  }
  double top(int, int slot, int tier) override { return (slot + tier) % 5; }

 private:
  const SlotTable& table_;
};

}  // namespace

int main() {
  const UnitSizes sizes{4, 8, 3 * 4096, 4096};
  Ledger ledger(sizes, 20 * sizes.full_bytes(), kLayers * kExperts);
  std::vector<uint8_t> tiers(kLayers * kExperts);
  std::vector<int32_t> slots(kLayers * kExperts);
  std::vector<int64_t> keys(kLayers * kExperts);
  SlotTable table(ledger, {tiers.data(), slots.data(), keys.data()}, kLayers, kExperts);
  RandomScorer scorer(table);
  uint64_t hash = 1469598103934665603ull;
  for (int step = 0; step < 20000; ++step) {
    const int layer = int(next(kLayers));
    std::vector<uint8_t> wanted(kExperts);
    for (int i = 0; i < 5; ++i) wanted[next(kExperts)] = uint8_t(4 + 2 * next(3));
    if (!table.hit_all(layer, wanted.data())) {
      const Found found = table.lookup(layer, wanted.data());
      for (const int slot : table.claim(layer, found.missing, wanted.data(), next(4) == 0, scorer))
        next(8) ? table.set_ready(slot) : table.drop(slot);
    }
    table.unpin_all();
    if (step % 500 == 499) table.resize(int64_t(10 + next(20)) * sizes.full_bytes(), scorer);
    if (ledger.touched_bytes() > ledger.budget_bytes()) return std::puts("the budget was overrun"), 1;
    for (size_t i = 0; i < tiers.size(); ++i) hash = (hash ^ tiers[i] ^ uint64_t(uint32_t(slots[i])) << 8) * 1099511628211ull;
  }
  const Tally& t = table.tally();
  long long hits = 0, misses = 0;
  for (int tier = 0; tier < kNumTiers; ++tier) hits += t.hits[tier], misses += t.misses[tier];
  std::printf("table: %lld hits, %lld misses, %lld evicted, %lld truncated, state %016llx\n", hits, misses,
              (long long)t.evicted, (long long)t.truncated, (unsigned long long)hash);
  return hits && misses && t.evicted && t.truncated ? 0 : 1;
}
