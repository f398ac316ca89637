// One thread and an io_uring: `depth` reads under way in the drive, none of them holding a thread.
// Raw system calls, so that nothing has to be installed. A ring that fails for good is given up, and threads read on.
#include "reader.hpp"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <sys/eventfd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "short_slices.hpp"
#include "uring_reads.hpp"

namespace hobbit {
namespace {

constexpr auto kPause = std::chrono::milliseconds(1);
// A ring none of whose calls succeeds for that long is given up. Well below any read timeout.
constexpr auto kPatience = std::chrono::seconds(1);

// Reads through the ring until the queue is closed and empty. False: the ring fails for good; reads may be under way.
bool run_ring(Shared& s) {
  std::vector<Finished> over;
  auto last_success = std::chrono::steady_clock::now();
  await_wake(s);
  while (!s.queue->is_closed() || s.free.size() < s.places.size()) {
    fill(s);
    if (s.queue->is_closed() && s.free.size() == s.places.size()) break;
    const int error = s.ring.wait();
    const size_t count = drain(s, over);
    if (error == 0 || count != 0) {
      last_success = std::chrono::steady_clock::now();
    } else if (std::chrono::steady_clock::now() - last_success > kPatience) {
      std::lock_guard<std::mutex> lock(s.mutex);
      s.why_not = std::strerror(error);
      return false;
    } else if (error != EINTR) {
      std::this_thread::sleep_for(kPause);  // out of kernel memory
    }
    fill(s);  // the drive goes on while checksums are computed
    if (!over.empty()) s.ring.submit();
    finish(s, over);
  }
  return true;
}

// What the kernel did not take is read here; what it took is awaited, because it may still write to its memory. All else
// is for threads. A read that never comes back leaves its memory in use: whoever waits for it has a time limit.
void read_on(Shared& s) {
  {
    std::lock_guard<std::mutex> lock(s.mutex);
    try {
      s.threads = make_thread_backend(s.queue, int(s.places.size()), {});
    } catch (const std::runtime_error& err) {
      s.why_not += std::string("; ") + err.what();
    }
  }
  std::vector<Finished> over;
  for (const uint64_t tag : s.ring.take_back()) {
    Finished one;
    if (tag != kWake && finish_part(s, size_t(tag), -ECANCELED, one)) over.push_back(std::move(one));
  }
  finish(s, over);
  while (s.free.size() < s.places.size()) {
    std::this_thread::sleep_for(kPause);
    drain(s, over);
    finish(s, over);
    for (const uint64_t tag : s.ring.take_back()) {  // the rest of a read that came short
      Finished one;
      if (tag != kWake && finish_part(s, size_t(tag), -ECANCELED, one)) over.push_back(std::move(one));
    }
    finish(s, over);
  }
  if (s.threads == nullptr) read_until_closed(*s.queue, {});  // there is no thread but this one
}

void run(const std::shared_ptr<Shared>& shared) {
  ask_for_short_slices();
  if (!run_ring(*shared)) read_on(*shared);
  std::lock_guard<std::mutex> lock(shared->mutex);
  shared->is_running = false;
  shared->ended.notify_all();
}

class UringBackend : public Backend {
 public:
  explicit UringBackend(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {
    std::thread([shared = shared_] { run(shared); }).detach();
  }
  bool join(double timeout_s) override {
    const auto started = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(shared_->mutex);
    const bool is_over = shared_->ended.wait_for(lock, std::chrono::duration<double>(timeout_s),
                                                 [&] { return !shared_->is_running; });
    Backend* threads = shared_->threads.get();
    lock.unlock();
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - started;
    return (threads == nullptr || threads->join(std::max(0.0, timeout_s - waited.count()))) && is_over;
  }
  std::string method() const override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    return shared_->why_not.empty() ? "io_uring" : "threads (io_uring failed: " + shared_->why_not + ")";
  }

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<Backend> make_uring_backend(std::shared_ptr<ReadQueue> queue, int depth, std::string& why_not) {
  auto shared = std::make_shared<Shared>();
  int error = shared->ring.open(unsigned(depth) + 1);
  if (error == 0 && (shared->wake = eventfd(0, EFD_CLOEXEC)) < 0) error = errno;
  if (error != 0) {
    why_not = std::strerror(error);
    return nullptr;
  }
  shared->places.resize(size_t(depth));
  for (size_t i = size_t(depth); i-- > 0;) shared->free.push_back(i);
  Shared* raw = shared.get();
  queue->on_push = [weak = std::weak_ptr<Shared>(shared), raw] {
    if (const auto held = weak.lock(); held && !raw->is_woken.exchange(true)) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t sent = write(raw->wake, &one, sizeof one);
    }
  };
  shared->queue = std::move(queue);
  try {
    return std::make_unique<UringBackend>(std::move(shared));
  } catch (const std::system_error& err) {  // no thread for it
    why_not = err.code().message();
    return nullptr;
  }
}

}  // namespace hobbit

#else

namespace hobbit {
std::unique_ptr<Backend> make_uring_backend(std::shared_ptr<ReadQueue>, int, std::string& why_not) {
  why_not = "built without linux/io_uring.h";
  return nullptr;
}
}  // namespace hobbit
#endif
