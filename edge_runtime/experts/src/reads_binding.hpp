// Reads into slots as Python has them: table, ledger, drive and memory kept alive. Included by bindings alone.
#pragma once
#include <nanobind/stl/string.h>

#include <algorithm>

#include "slot_reads.hpp"
#include "table_binding.hpp"

namespace hobbit {

// Waits with the GIL released, in slices after which Ctrl-C is looked for.
class PatientWaiter : public ReadWaiter {
 public:
  std::vector<Outcome> wait(ReadPort& port, double timeout_s) override {
    while (true) {
      std::vector<Outcome> done;
      if (timeout_s > 0) {
        nb::gil_scoped_release release;
        done = port.wait(std::min(timeout_s, kSlice));
      } else {
        done = port.wait(0.0);
      }
      timeout_s -= kSlice;
      if (!done.empty() || timeout_s <= 0) return done;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
  }

 private:
  static constexpr double kSlice = 0.1;
};

// `memory` has places() -> (addresses of cores uint64 [S, 4], of planes or None, what owns all of them), discard_listed()
// and follow_reads(slot, planes).
class PythonMemory : public SlotMemory {
 public:
  explicit PythonMemory(nb::object memory) : memory_(std::move(memory)) {}
  ~PythonMemory() override {
    if (is_written) held_.release();  // on purpose: the drive may still write there
  }
  SlotPlaces places() override {
    const nb::tuple found = nb::cast<nb::tuple>(memory_.attr("places")());
    const auto cores = nb::cast<Writeable>(found[0]);
    SlotPlaces places{cores.data(), nullptr, int64_t(cores.shape(0)), 0};
    if (!found[1].is_none()) {
      const auto planes = nb::cast<Readable>(found[1]);
      places.planes = planes.data(), places.num_planes = int64_t(planes.shape(0));
    }
    held_ = found;
    return places;
  }
  void discard() override { memory_.attr("discard_listed")(); }
  void follow(int slot, const std::vector<int>& planes) override {
    nb::list units;
    for (const int unit : planes) units.append(unit);
    memory_.attr("follow_reads")(slot, units);
  }
  void let_go() { held_ = nb::object(); }
  bool is_written = false;  // reads into it are under way and will not be waited for

 private:
  using Writeable = nb::ndarray<uint64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
  using Readable = nb::ndarray<const uint64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
  nb::object memory_, held_;  // held: what the last places said, until the memory moves
};

class BoundReads {
 public:
  BoundReads(nb::object table, nb::object ledger, nb::object drive, nb::object memory, int core_segments,
             std::vector<double> bounds_s)
      : bound_(nb::cast<Table&>(table)), memory_(std::move(memory)), table_(std::move(table)),
        ledger_(std::move(ledger)), drive_(std::move(drive)),
        reads_(bound_, nb::cast<Ledger&>(ledger_), port_of(drive_), memory_, core_segments, std::move(bounds_s)) {}
  ~BoundReads() { memory_.is_written = reads_.num_in_flight() > 0; }

  SlotReads& reads() { return reads_; }
  const Table& table() const { return bound_; }
  Table& table() { return bound_; }
  PatientWaiter& waiter() { return waiter_; }
  void memory_moved() {
    if (reads_.memory_moved()) memory_.let_go();
  }

 private:
  static ReadPort& port_of(const nb::object& drive) {
    const nb::capsule port = nb::cast<nb::capsule>(drive.attr("port")());
    return *static_cast<ReadPort*>(port.data(kReadPort));
  }

  Table& bound_;
  PythonMemory memory_;
  PatientWaiter waiter_;
  nb::object table_, ledger_, drive_;
  SlotReads reads_;
};

inline nb::list finished(const std::vector<FinishedRead>& found) {
  nb::list result;
  for (const auto& [read, o] : found)
    result.append(nb::make_tuple(
        read.slot, read.layer, read.expert, o.started_ns, o.finished_ns - o.started_ns, int(o.fault), read.first,
        read.last,
        nb::make_tuple(o.code, o.at, o.bytes, o.segment, o.expected, o.got, o.layer, o.expert, o.message)));
  return result;
}

}  // namespace hobbit
