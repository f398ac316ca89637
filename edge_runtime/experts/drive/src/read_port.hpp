// What whoever fills slots asks of the drive reader, across modules: virtual calls alone, so that nothing is linked.
#pragma once

#include "reader.hpp"

namespace hobbit {

constexpr const char* kReadPort = "hobbit.ReadPort";  // name of the capsule that hands it out
constexpr int kNow = 0, kNext = 1;                    // priorities, as in store/base.py

// A read of segments `first` to `last` - 1 of an expert's record.
struct ReadOrder {
  int priority;  // lower is sooner
  int layer, expert, first, last;
  const Target* targets;  // one after the other; each starts 4 KiB aligned
  size_t num_targets;
};

class ReadPort {
 public:
  virtual ~ReadPort() = default;
  // Queues a read and returns its number. Throws std::invalid_argument where there is no such record, or too little room.
  virtual uint64_t submit(const ReadOrder& order) = 0;
  // Reads that are done and were not forgotten, after waiting for one; none after the time.
  virtual std::vector<Outcome> wait(double timeout_s) = 0;
  virtual void forget(uint64_t number) = 0;
  virtual bool cancel(uint64_t number) = 0;
  virtual void promote(uint64_t number, int priority) = 0;
};

}  // namespace hobbit
