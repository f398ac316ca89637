// A few threads, each inside one preadv.
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "reader.hpp"
#include "short_slices.hpp"

namespace hobbit {
namespace {

constexpr size_t kPage = 4096;

int64_t read_once(const ReadFunction& replaced, int fd, const Target* targets, size_t count, int64_t offset) {
  if (replaced) return replaced(fd, targets[0].address, targets[0].bytes, offset);
  iovec vectors[kMaxSegments];
  for (size_t i = 0; i < count; ++i) vectors[i] = {targets[i].address, targets[i].bytes};
  const ssize_t got = preadv(fd, vectors, int(count), offset);
  return got < 0 ? -int64_t(errno) : int64_t(got);
}

// Bytes of the whole part, or -errno. A drive may return less than asked, in whole pages.
int64_t read_part(const ReadFunction& replaced, const Part& part, size_t done) {
  const size_t wanted = ReadQueue::bytes(part);
  while (done < wanted) {
    Target targets[kMaxSegments];
    const size_t count = ReadQueue::scatter(part, done, targets);
    const int64_t got = read_once(replaced, part.read->request.fd, targets, count,
                                  ReadQueue::file_offset(part) + int64_t(done));
    if (got == -EINTR) continue;
    if (got < 0) return got;
    done += size_t(got);
    if (got == 0 || (done < wanted && done % kPage)) break;
  }
  return int64_t(done);
}

struct Shared {
  std::shared_ptr<ReadQueue> queue;
  ReadFunction read;
  std::mutex mutex;
  std::condition_variable ended;
  int running = 0;
};

void work(const std::shared_ptr<Shared>& shared) {
  ask_for_short_slices();
  read_until_closed(*shared->queue, shared->read);
  std::lock_guard<std::mutex> lock(shared->mutex);
  --shared->running;
  shared->ended.notify_all();
}

class ThreadBackend : public Backend {
 public:
  ThreadBackend(std::shared_ptr<ReadQueue> queue, int depth, ReadFunction read) : shared_(std::make_shared<Shared>()) {
    shared_->queue = std::move(queue);
    shared_->read = std::move(read);
    // detached: a thread stuck in the kernel must not keep the process from ending
    for (; started_ < depth; ++started_) {
      {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        ++shared_->running;
      }
      try {
        std::thread([shared = shared_] { work(shared); }).detach();
      } catch (const std::system_error& err) {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        --shared_->running;
        why_fewer_ = err.code().message();
        break;
      }
    }
    if (started_ == 0)
      throw std::runtime_error("io_threads: the system gives no thread (" + why_fewer_ +
                               "). Raise the limit on threads (ulimit -u; TasksMax= of a service).");
    depth_ = depth;
  }
  bool join(double timeout_s) override {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    return shared_->ended.wait_for(lock, std::chrono::duration<double>(timeout_s),
                                   [&] { return shared_->running == 0; });
  }

  std::string method() const override {
    if (started_ == depth_) return "threads";
    return "threads (" + std::to_string(started_) + " of " + std::to_string(depth_) + ": " + why_fewer_ + ")";
  }

 private:
  std::shared_ptr<Shared> shared_;
  int started_ = 0, depth_ = 0;
  std::string why_fewer_;
};

}  // namespace

int64_t read_plainly(const Part& part, size_t done) { return read_part({}, part, done); }

void read_until_closed(ReadQueue& queue, const ReadFunction& read) {
  for (;;) {
    const Part part = queue.take(true);
    if (!part.read) return;
    if (!queue.is_intact(part)) continue;
    Outcome why;
    int64_t result = 0;
    try {
      result = read_part(read, part, 0);
    } catch (const std::exception& err) {
      why.fault = Fault::raised, why.message = err.what();
    }
    queue.landed();
    why.fault == Fault::none ? queue.finish(part, result) : queue.fail(part, why);
  }
}

std::unique_ptr<Backend> make_thread_backend(std::shared_ptr<ReadQueue> queue, int depth, ReadFunction read) {
  return std::make_unique<ThreadBackend>(std::move(queue), depth, std::move(read));
}

}  // namespace hobbit
