#include "at_once.hpp"

namespace hobbit {
namespace {

// Takes in the first of `missing`, as many as there is room for, and takes them off; returns their slots.
std::vector<int> claim(SlotTable& table, int layer, std::vector<int>& missing, const uint8_t* tiers, Scorer& scorer) {
  if (missing.empty()) return {};
  std::vector<int> slots = table.claim(layer, missing, tiers, false, scorer);
  missing.erase(missing.begin(), missing.begin() + ptrdiff_t(slots.size()));
  return slots;
}

}  // namespace

size_t serve_at_once(SlotTable& table, int layer, const uint8_t* tiers, Scorer& scorer, const Finish& finish) {
  if (table.hit_all(layer, tiers)) return 0;
  Found found = table.lookup(layer, tiers);
  std::vector<int> held = std::move(found.ready_slots), &missing = found.missing;
  std::vector<int> read = claim(table, layer, missing, tiers, scorer);
  while (true) {
    for (const int slot : held) table.unpin(slot);
    for (const int slot : claim(table, layer, missing, tiers, scorer)) read.push_back(slot);
    if (read.empty()) return missing.size();
    finish(read);
    held = std::exchange(read, claim(table, layer, missing, tiers, scorer));
  }
}

size_t serve_at_once(SlotTable& table, int layer, const uint8_t* tiers, Scorer& scorer) {
  return serve_at_once(table, layer, tiers, scorer, [&](const std::vector<int>& slots) {
    for (const int slot : slots) table.set_ready(slot);
    table.ledger().discards.clear();  // no memory was written, so none goes back
  });
}

}  // namespace hobbit
