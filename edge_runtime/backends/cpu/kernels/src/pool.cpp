#include "pool.hpp"

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace hobbit {
namespace {

// About 10 to 30 us (a pause is 40 to 140 cycles): longer than the gap between two phases of a layer, and short enough
// that a waiting worker does not hold the core that the dense engine needs next.
constexpr int kSpins = 600;
constexpr uint64_t kOpen = uint64_t(1) << 31;
constexpr uint64_t kInside = kOpen - 1;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

template <class Ready>
void spin_until(Ready ready) {
  for (int i = 0; !ready(); ++i) i < kSpins ? relax() : std::this_thread::yield();
}

void bind([[maybe_unused]] std::thread& thread, [[maybe_unused]] int processor) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);  // a wish: without it everything works, slower
#endif
}

}  // namespace

std::vector<int> processors_by_size([[maybe_unused]] const std::string& root) {
  std::vector<std::pair<int, int>> found;  // less its capacity, number
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &set)) continue;
      int capacity = 0;
      std::ifstream(root + "/cpu" + std::to_string(cpu) + "/cpu_capacity") >> capacity;
      found.emplace_back(-capacity, cpu);
    }
#endif
  std::sort(found.begin(), found.end());
  std::vector<int> processors;
  for (const auto& [less, cpu] : found) processors.push_back(cpu);
  return processors;
}

Pool::Pool(int threads) {
  const std::vector<int> processors = processors_by_size();
  workers_.reserve(size_t(threads) - 1);
  try {
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { work(i); });
      if (size_t(threads) > processors.size()) continue;
      homes_.push_back(processors[size_t(i)]);
      bind(workers_.back(), homes_.back());
    }
    if (!homes_.empty()) free_processor_ = processors[0];
  } catch (const std::system_error& err) {
    const int got = size();
    stop();
    throw std::runtime_error("threads: expected " + std::to_string(threads) + ", the system gave " +
                             std::to_string(got) + " (" + err.code().message() +
                             "). Use fewer, or raise the limit on threads (ulimit -u; TasksMax= of a service).");
  }
}

void Pool::stop() {
  if (workers_.empty()) return;
  stop_ = true;
  dispatch([](void*, int) {}, nullptr, true);
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

// The caller is not ours to bind, and the scheduler leaves it where it is: its worker sleeps between two jobs, so that
// the processor never looks crowded. The job would be the caller's alone, for as long as the caller stays there.
void Pool::leave_the_callers_processor() {
#if defined(__linux__)
  const auto taken = std::find(homes_.begin(), homes_.end(), sched_getcpu());
  if (taken == homes_.end()) return;
  std::swap(*taken, free_processor_);
  bind(workers_[size_t(taken - homes_.begin())], *taken);
#endif
}

void Pool::dispatch(Entry entry, void* ctx, bool all) {
  leave_the_callers_processor();
  entry_ = entry;
  ctx_ = ctx;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t number = (gate_.load(std::memory_order_relaxed) >> 32) + 1;
  gate_.store(number << 32 | kOpen);  // sequentially consistent: either we see the sleeper or it sees the job
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  entry(ctx, 0);
  if (all) spin_until([&] { return done_.load(std::memory_order_acquire) == int(workers_.size()); });
  gate_.fetch_and(~kOpen);
  spin_until([&] { return (gate_.load(std::memory_order_acquire) & kInside) == 0; });
}

void Pool::work(int thread) {
  for (uint64_t seen = 0;;) {
    const auto is_new = [&] { return gate_.load() >> 32 != seen; };
    for (int i = 0; i < kSpins && !is_new(); ++i) relax();
    if (!is_new()) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, is_new);
      sleepers_.fetch_sub(1);
    }
    uint64_t gate = gate_.load();
    seen = gate >> 32;
    bool is_inside = false;
    while (!is_inside && gate >> 32 == seen && gate & kOpen) is_inside = gate_.compare_exchange_weak(gate, gate + 1);
    if (!is_inside) continue;
    const bool last = stop_;
    entry_(ctx_, thread);
    done_.fetch_add(1, std::memory_order_release);
    gate_.fetch_sub(1, std::memory_order_release);
    if (last) return;
  }
}

}  // namespace hobbit
