// A persistent pool that runs one job on its threads; the caller is thread 0.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace hobbit {

class Pool {
 public:
  // Each worker is bound to a processor of its own where the process may use that many: a worker that wakes up on the
  // caller's processor takes it away from the caller.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // Calls job(thread) on every thread and returns when all are done. `job` must not throw.
  template <class Job>
  void run(Job& job) {
    dispatch<Job>(job, true);
  }

  // Calls job(thread) on the caller and on those threads that come in time. When the caller's call returns, nothing
  // must be left to do but what other threads are in the middle of: whoever wakes up later is not waited for.
  template <class Job>
  void run_with_whoever_comes(Job& job) {
    dispatch<Job>(job, false);
  }

 private:
  using Entry = void (*)(void*, int);
  template <class Job>
  void dispatch(Job& job, bool all) {
    if (workers_.empty()) return job(0);
    dispatch([](void* ctx, int thread) { (*static_cast<Job*>(ctx))(thread); }, &job, all);
  }
  void dispatch(Entry entry, void* ctx, bool all);
  void work(int thread);

  Entry entry_ = nullptr;
  void* ctx_ = nullptr;
  // Number of the job in the upper half; in the lower one whether it may be entered, and how many are inside.
  std::atomic<uint64_t> gate_{0};
  std::atomic<int> done_{0};
  std::atomic<int> sleepers_{0};
  bool stop_ = false;  // read inside a job only
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace hobbit
