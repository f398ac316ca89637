// A persistent pool that runs one job on all threads; the caller is thread 0.
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
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // Calls job(thread) on every thread and returns when all are done. `job` must not throw.
  template <class Job>
  void run(Job& job) {
    if (workers_.empty()) return job(0);
    dispatch([](void* ctx, int thread) { (*static_cast<Job*>(ctx))(thread); }, &job);
  }

 private:
  using Entry = void (*)(void*, int);
  void dispatch(Entry entry, void* ctx);
  void work(int thread);

  Entry entry_ = nullptr;
  void* ctx_ = nullptr;
  std::atomic<uint32_t> epoch_{0};
  std::atomic<int> pending_{0};
  std::atomic<int> sleepers_{0};
  bool stop_ = false;  // read after an epoch change only
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace hobbit
