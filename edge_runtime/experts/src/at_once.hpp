// Serves a layer's experts over reads that take no time: who is pinned, claimed, evicted and ready, in which order.
#pragma once

#include <functional>

#include "slot_table.hpp"

namespace hobbit {

// Takes slots as read, with everything they lack: each is ready afterwards.
using Finish = std::function<void(const std::vector<int>& slots)>;

// What `LayerStream` does to a table over reads that are over when somebody looks. Experts uint8 [E], the tier each is
// served at; nothing is being read. Returns how many found no room. What `finish` leaves in the ledger's discards stays.
size_t serve_at_once(SlotTable& table, int layer, const uint8_t* tiers, Scorer& scorer, const Finish& finish);

// The same where nobody counts the reads; no discards are left.
size_t serve_at_once(SlotTable& table, int layer, const uint8_t* tiers, Scorer& scorer);

}  // namespace hobbit
