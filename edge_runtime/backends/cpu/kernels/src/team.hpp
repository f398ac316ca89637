// The threads that compute, shared by all that computes on the CPU: one call at a time has them.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "pool.hpp"

namespace hobbit {

class Team {
 public:
  explicit Team(int threads) : pool_(threads), ranges_(size_t(threads)) {}

  size_t size() const { return ranges_.size(); }
  std::mutex& mutex() { return mutex_; }  // held during whatever follows

  // Where a thread begins, for `run_ranges`.
  void begin_at(size_t thread, size_t item) { ranges_[thread].next.store(item, std::memory_order_relaxed); }

  // Threads take contiguous ranges, so each streams its own part of the bytes; one that is done, because another was
  // woken late or has to share its core, goes on with a block of what is left of the others'. The starts of the ranges
  // are set; together they are the items 0 .. total - 1. `item(i, thread)` must not throw.
  template <class Item>
  void run_ranges(size_t total, size_t block, Item item) {
    const size_t threads = ranges_.size();
    for (size_t t = 0; t < threads; ++t)
      ranges_[t].end = t + 1 < threads ? ranges_[t + 1].next.load(std::memory_order_relaxed) : total;
    auto job = [&](int thread) {
      for (size_t k = 0; k < threads; ++k) {
        Range& range = ranges_[(size_t(thread) + k) % threads];
        for (;;) {
          const size_t at = range.next.fetch_add(block, std::memory_order_relaxed);
          if (at >= range.end) break;
          for (size_t i = at; i < std::min(at + block, range.end); ++i) item(i, size_t(thread));
        }
      }
    };
    pool_.run_with_whoever_comes(job);
  }

  // Equal shares.
  template <class Item>
  void run(size_t total, size_t block, Item item) {
    for (size_t t = 0; t < ranges_.size(); ++t) begin_at(t, total * t / ranges_.size());
    run_ranges(total, block, item);
  }

 private:
  Pool pool_;
  struct alignas(64) Range {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };
  std::vector<Range> ranges_;  // one a thread
  std::mutex mutex_;
};

// Throws std::invalid_argument for a number that no machine has.
inline std::shared_ptr<Team> make_team(int threads) {
  if (threads < 1 || threads > 256)
    throw std::invalid_argument("threads must be in 1..256, got " + std::to_string(threads));
  return std::make_shared<Team>(threads);
}

}  // namespace hobbit
