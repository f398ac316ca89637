// A persistent pool that runs one job on its threads; the caller is thread 0.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hobbit {

// The processors this process may use, those of the largest capacity first, as `root` says it of processors that are not
// all alike; else in order. Empty where it is not known which ones there are.
std::vector<int> processors_by_size(const std::string& root = "/sys/devices/system/cpu");

class Pool {
 public:
  // Each worker is bound to a processor of its own, the largest there are, where the process may use that many: a worker
  // that wakes up on the caller's processor takes it away from the caller, and all wait for one on a small processor.
  // One whose processor the caller has come to gets the one that is free.
  // Throws std::runtime_error where the system gives fewer threads.
  explicit Pool(int threads);
  ~Pool() { stop(); }
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
  void leave_the_callers_processor();
  void work(int thread);
  void stop();

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
  std::vector<int> homes_;  // the processor of each worker; none where they are not bound
  int free_processor_ = -1;  // what no worker has
};

}  // namespace hobbit
