// Python surface of the reads into slots; the GIL is released while they are waited for.
#include "reads_binding.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace nb::literals;
using hobbit::AnyScorer;
using hobbit::BoundReads;
using hobbit::Chosen;
using hobbit::Tiers;

void bind_slot_reads(nb::module_& m) {
  nb::class_<BoundReads>(m, "SlotReads")
      .def(nb::init<nb::object, nb::object, nb::object, nb::object, int, std::vector<double>>(), "table"_a, "ledger"_a,
           "drive"_a, "memory"_a, "core_segments"_a, "bounds_s"_a)
      .def_prop_ro("num_in_flight", [](BoundReads& r) { return r.reads().num_in_flight(); })
      .def_prop_rw("in_order", [](BoundReads& r) { return r.reads().in_order; },
                   [](BoundReads& r, bool in_order) { r.reads().in_order = in_order; })
      .def("slots_in_flight", [](BoundReads& r) { return r.reads().slots_in_flight(); })
      .def("tally",
           [](BoundReads& r) { return nb::make_tuple(r.reads().tally().buckets, r.reads().tally().ns); })
      .def("memory_moved", &BoundReads::memory_moved)
      .def("start",
           [](BoundReads& r, int layer, const std::vector<int>& experts, const Tiers& tiers, int priority,
              nb::handle rule) {
             r.table().require_experts(experts);
             AnyScorer scorer(r.table(), rule);
             return r.reads().start(layer, experts, r.table().wanted(layer, tiers), priority, scorer.get());
           },
           "layer"_a, "experts"_a, "tiers"_a, "priority"_a, "rule"_a)
      .def("prefetch_predicted",
           [](BoundReads& r, int layer, const Chosen& ids, const Tiers& tiers, nb::handle rule) {
             const std::vector<int> order = hobbit::by_rank(r.table(), ids);
             const hobbit::Predicted found = r.table().mask_predicted(layer, order, r.table().wanted(layer, tiers));
             if (found.absent.empty()) return found.lacking;
             AnyScorer scorer(r.table(), rule);
             r.reads().start(layer, found.absent, tiers.data(), hobbit::kNext, scorer.get());
             return found.lacking;
           },
           "layer"_a, "ids"_a, "tiers"_a, "rule"_a)
      .def("cancel_stale",
           [](BoundReads& r, int layer, const Tiers& tiers) {
             r.reads().cancel_stale(layer, r.table().wanted(layer, tiers));
           },
           "layer"_a, "tiers"_a)
      .def("promote", [](BoundReads& r, int slot) { r.reads().promote(slot); }, "slot"_a)
      .def("collect",
           [](BoundReads& r, double timeout_s) { return hobbit::finished(r.reads().collect(timeout_s, r.waiter())); },
           "timeout_s"_a)
      .def("abort", [](BoundReads& r, double timeout_s) { r.reads().abort(timeout_s, r.waiter()); }, "timeout_s"_a);
}
