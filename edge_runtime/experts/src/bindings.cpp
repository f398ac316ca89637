// Python surface of the slot table and its ledger: arrays by reference, numbers and lists by value; the GIL is kept.
#include "at_once.hpp"
#include "table_binding.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using hobbit::Chosen;
using hobbit::KeyRow;
using hobbit::PythonScorer;
using hobbit::SlotRows;
using hobbit::Table;
using hobbit::Tiers;
using hobbit::TierTable;

void bind_use_forecast(nb::module_& m);  // forecast_bindings.cpp
void bind_slot_reads(nb::module_& m);    // reads_bindings.cpp
void bind_token_layer(nb::module_& m);   // token_bindings.cpp

namespace {

nb::list counts(const int64_t (&by_tier)[hobbit::kNumTiers]) {
  nb::list found;
  for (const int64_t lookups : by_tier) found.append(lookups);
  return found;
}

nb::tuple tally(const Table& table) {
  const hobbit::Tally& t = table.tally();
  return nb::make_tuple(counts(t.hits), counts(t.late), counts(t.misses), t.upgrades, t.evicted, t.truncated,
                        t.prefetch_issued, t.prefetch_used, t.prefetch_late, t.prefetch_wasted);
}

std::vector<std::pair<bool, int>> pairs(const std::vector<hobbit::Discard>& discards) {
  std::vector<std::pair<bool, int>> found;
  for (const hobbit::Discard& one : discards) found.emplace_back(one.is_plane, one.unit);
  return found;
}

void bind_ledger(nb::module_& m) {
  using Ledger = hobbit::Ledger;
  nb::class_<Ledger>(m, "Ledger")
      .def("__init__",
           [](Ledger* self, int core_tier, int full_tier, int64_t core_bytes, int64_t plane_bytes, int64_t budget_bytes,
              int64_t max_experts) {
             if (core_bytes < 1 || plane_bytes < 0 || budget_bytes < 0 || max_experts < 0 || core_tier > full_tier ||
                 full_tier >= hobbit::kNumTiers)
               throw std::invalid_argument("ledger: sizes must be positive and the full tier not below the core's");
             new (self) Ledger({core_tier, full_tier, core_bytes, plane_bytes}, budget_bytes, max_experts);
           },
           "core_tier"_a, "full_tier"_a, "core_bytes"_a, "plane_bytes"_a, "budget_bytes"_a, "max_experts"_a)
      .def_prop_ro("budget_bytes", &Ledger::budget_bytes)
      .def_prop_ro("max_experts", &Ledger::max_experts)
      .def_prop_ro("free_bytes", &Ledger::free_bytes)
      .def_prop_ro("used_bytes", &Ledger::used_bytes)
      .def_prop_ro("touched_bytes", &Ledger::touched_bytes)
      .def_prop_ro("num_cores", &Ledger::num_cores)
      .def("core_capacity", &Ledger::core_capacity, "budget_bytes"_a)
      .def("plane_capacity", &Ledger::plane_capacity, "budget_bytes"_a)
      .def("take_core", &Ledger::take_core)
      .def("take_plane", &Ledger::take_plane)
      .def("free_core", &Ledger::free_core, "unit"_a)
      .def("free_units", [](const Ledger& l) { return nb::make_tuple(l.cores().warm, l.cores().cold, l.planes().warm, l.planes().cold); })
      .def_prop_ro("discards", [](const Ledger& l) { return pairs(l.discards); })
      .def("hold_back", &hobbit::Ledger::hold_back)
      .def("hold_ahead",
           [](Ledger& l, int64_t cores) {
             if (cores < 0) throw std::invalid_argument("ledger: cores held ahead must not be negative");
             return l.hold_ahead(cores);
           },
           "cores"_a)
      .def("inherit",
           [](Ledger& l, const Ledger& before) {
             if (!l.can_inherit(before)) return false;
             l.inherit(before);
             return true;
           },
           "before"_a)
      .def("drain_discards", [](Ledger& l) { return pairs(std::exchange(l.discards, {})); });
}

using Slots = std::vector<int>;
using TableClass = nb::class_<Table>;

// Making it, and what it says of its slots.
void bind_state(TableClass& table) {
  table
      .def(nb::init<hobbit::Ledger&, TierTable, SlotRows, KeyRow>(), nb::keep_alive<1, 2>(), "ledger"_a, "tiers"_a,
           "slots"_a, "keys"_a)
      .def_prop_ro("num_slots", &Table::num_slots)
      .def_prop_ro("num_resident", &Table::num_resident)
      .def_prop_ro("num_pinned", &Table::num_pinned)
      .def_prop_ro("num_reading", &Table::num_reading)
      .def("tally", &tally)
      .def("is_reading",
           [](const Table& t, int slot) {
             if (slot >= 0) t.require_slots({slot});
             return t.is_reading(slot);
           },
           "slot"_a)
      .def("planes_of", [](const Table& t, int slot) { t.require_slots({slot}); return t.planes_of(slot); }, "slot"_a)
      .def("resident_planes", [](const Table& t, int slot) { return t.resident_planes(t.used(slot)); }, "slot"_a)
      .def("expert_in", [](const Table& t, int slot) { return t.expert_in(t.used(slot)); }, "slot"_a)
      .def("lacking_bytes",
           [](const Table& t, const Slots& slots) {
             for (const int slot : slots) t.used(slot);
             return t.lacking_bytes(slots);
           },
           "slots"_a);
}

// What a layer asks for, and the slots it gets.
void bind_claims(TableClass& table) {
  table
      .def("find",
           [](Table& t, int layer, const Tiers& tiers) {
             hobbit::Found found = t.lookup(layer, t.wanted(layer, tiers));
             return nb::make_tuple(found.ready_experts, found.ready_slots, found.late_slots, found.missing);
           },
           "layer"_a, "tiers"_a)
      .def("hit_all", [](Table& t, int layer, const Tiers& tiers) { return t.hit_all(layer, t.wanted(layer, tiers)); },
           "layer"_a, "tiers"_a)
      .def("make_claim",
           [](Table& t, int layer, const Slots& experts, const Tiers& tiers, bool prefetch, nb::handle scores,
              nb::handle top) {
             t.require_experts(experts);
             PythonScorer scorer(t.num_slots(), scores, top);
             return t.claim(layer, experts, t.wanted(layer, tiers), prefetch, scorer);
           },
           "layer"_a, "experts"_a, "tiers"_a, "prefetch"_a, "scores"_a, "top"_a)
      .def("serve_at_once",
           [](Table& t, int layer, const Tiers& tiers, nb::handle rule, nb::object finish) {
             hobbit::AnyScorer scorer(t, rule);
             const uint8_t* wanted = t.wanted(layer, tiers);
             if (finish.is_none()) return hobbit::serve_at_once(t, layer, wanted, scorer.get());
             return hobbit::serve_at_once(t, layer, wanted, scorer.get(), [&](const Slots& slots) { finish(slots); });
           },
           "layer"_a, "tiers"_a, "rule"_a, "finish"_a = nb::none())
      .def("mask",
           [](Table& t, int layer, const std::vector<int>& experts) {
             t.require_experts(experts);
             if (layer < 0 || layer >= t.num_layers()) throw std::out_of_range("table: there is no such layer");
             for (const int expert : experts) t.mask(layer, expert);
           },
           "layer"_a, "experts"_a)
      .def("mask_predicted",
           [](Table& t, int layer, const Chosen& ids, const Tiers& tiers) {
             const hobbit::Predicted found = t.mask_predicted(layer, hobbit::by_rank(t, ids), t.wanted(layer, tiers));
             return nb::make_tuple(found.lacking, found.absent);
           },
           "layer"_a, "ids"_a, "tiers"_a);
}

// What becomes of slots once they are claimed.
void bind_slots(TableClass& table) {
  table
      .def("set_ready", [](Table& t, int slot) { t.set_ready(t.used(slot)); }, "slot"_a)
      .def("drop", [](Table& t, int slot) { t.drop(t.used(slot)); }, "slot"_a)
      .def("unpin",
           [](Table& t, const Slots& slots) {
             t.require_slots(slots);
             for (const int slot : slots) t.unpin(slot);
           },
           "slots"_a)
      .def("unpin_all", &Table::unpin_all)
      .def("keep_cores", &Table::keep_cores)
      .def("reconcile",
           [](Table& t, const Slots& live) {
             t.require_slots(live);
             t.reconcile(live);
           },
           "live"_a)
      .def("change_budget",
           [](Table& t, int64_t budget_bytes, nb::handle scores, nb::handle top) {
             PythonScorer scorer(t.num_slots(), scores, top);
             return t.resize(budget_bytes, scorer);
           },
           "budget_bytes"_a, "scores"_a, "top"_a)
      .def("start_over", &Table::start_over, "budget_bytes"_a);
}

void bind_table(nb::module_& m) {
  TableClass table(m, "Table");
  bind_state(table);
  bind_claims(table);
  bind_slots(table);
}

}  // namespace

NB_MODULE(_native, m) {
  bind_ledger(m);
  bind_use_forecast(m);
  bind_slot_reads(m);
  bind_token_layer(m);
  bind_table(m);
}
