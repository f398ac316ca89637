#include "pool.hpp"

namespace hobbit {

// About 30 to 100 us (a pause is 40 to 140 cycles): longer than the gap between two phases of a
// layer, far shorter than a trunk step, so that waiting workers never hold a core that the dense engine needs.
constexpr int kSpins = 2000;

static inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

Pool::Pool(int threads) {
  workers_.reserve(size_t(threads) - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
  if (workers_.empty()) return;
  stop_ = true;
  dispatch([](void*, int) {}, nullptr);
  for (std::thread& worker : workers_) worker.join();
}

void Pool::dispatch(Entry entry, void* ctx) {
  entry_ = entry;
  ctx_ = ctx;
  pending_.store(int(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1);  // sequentially consistent: either we see the sleeper or it sees the epoch
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  entry(ctx, 0);
  for (int i = 0; pending_.load(std::memory_order_acquire) != 0; ++i)
    i < kSpins ? relax() : std::this_thread::yield();
}

void Pool::work(int thread) {
  for (uint32_t seen = 0;;) {
    for (int i = 0; i < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++i) relax();
    if (epoch_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return epoch_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    ++seen;  // dispatch waits for all workers, so an epoch is never skipped
    const bool last = stop_;
    entry_(ctx_, thread);
    pending_.fetch_sub(1, std::memory_order_release);
    if (last) return;
  }
}

}  // namespace hobbit
