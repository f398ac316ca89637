// Serves a layer's experts over reads that take no time: what waves.py does, for a table beside the one that is read for.
#pragma once

#include "slot_table.hpp"

namespace hobbit {

// Experts uint8 [E], the tier each is served at; returns how many found no room. No memory was written, so none goes back.
size_t serve_at_once(SlotTable& table, int layer, const uint8_t* tiers, Scorer& scorer);

}  // namespace hobbit
