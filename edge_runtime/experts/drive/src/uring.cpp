// One thread and an io_uring: `depth` reads under way in the drive, none of them holding a thread.
// Raw system calls, so that nothing has to be installed. A ring that fails for good is given up, and threads read on.
#include "reader.hpp"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace hobbit {
namespace {

constexpr size_t kPage = 4096;
constexpr uint64_t kWake = ~uint64_t(0);
constexpr int kMaxTries = 16;  // of one read that is interrupted
constexpr auto kPause = std::chrono::milliseconds(1);
// A ring none of whose calls succeeds for that long is given up. Well below any read timeout.
constexpr auto kPatience = std::chrono::seconds(1);

class Ring {
 public:
  ~Ring() {
    if (entries_) munmap(entries_, entry_bytes_);
    if (rings_) munmap(rings_, ring_bytes_);
    if (fd_ >= 0) close(fd_);
  }

  // 0, or the errno of what the kernel refused.
  int open(unsigned entries) {
    io_uring_params params;
    std::memset(&params, 0, sizeof params);
    fd_ = int(syscall(__NR_io_uring_setup, entries, &params));
    if (fd_ < 0) return errno;
    if (!(params.features & IORING_FEAT_SINGLE_MMAP) || !(params.features & IORING_FEAT_NODROP)) return ENOSYS;
    ring_bytes_ = std::max<size_t>(params.sq_off.array + params.sq_entries * sizeof(unsigned),
                                   params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
    entry_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
    rings_ = map(ring_bytes_, IORING_OFF_SQ_RING);
    entries_ = map(entry_bytes_, IORING_OFF_SQES);
    if (!rings_ || !entries_) return ENOMEM;
    auto* base = static_cast<uint8_t*>(rings_);
    const auto at = [&](unsigned offset) { return reinterpret_cast<unsigned*>(base + offset); };
    sq_head_ = at(params.sq_off.head);
    sq_tail_ = at(params.sq_off.tail), sq_mask_ = *at(params.sq_off.ring_mask), sq_array_ = at(params.sq_off.array);
    cq_head_ = at(params.cq_off.head), cq_tail_ = at(params.cq_off.tail), cq_mask_ = *at(params.cq_off.ring_mask);
    completions_ = reinterpret_cast<io_uring_cqe*>(base + params.cq_off.cqes);
    return 0;
  }

  void push(uint8_t opcode, int fd, const void* address, unsigned length, int64_t offset, uint64_t tag) {
    const unsigned tail = *sq_tail_, index = tail & sq_mask_;
    io_uring_sqe& entry = static_cast<io_uring_sqe*>(entries_)[index];
    std::memset(&entry, 0, sizeof entry);
    entry.opcode = opcode, entry.fd = fd, entry.off = uint64_t(offset);
    entry.addr = reinterpret_cast<uint64_t>(address), entry.len = length, entry.user_data = tag;
    sq_array_[index] = index;
    __atomic_store_n(sq_tail_, tail + 1, __ATOMIC_RELEASE);
    ++unsubmitted_;
  }

  // Hand over what was pushed, and wait for at least one completion or not at all; 0 or errno.
  int wait() { return enter(1, IORING_ENTER_GETEVENTS); }
  int submit() { return unsubmitted_ ? enter(0, 0) : 0; }
  // Takes back what the kernel has not looked at: nobody works on it. Returns the tags.
  std::vector<uint64_t> take_back() {
    std::vector<uint64_t> tags;
    const unsigned head = __atomic_load_n(sq_head_, __ATOMIC_ACQUIRE);
    for (unsigned i = head; i != *sq_tail_; ++i)
      tags.push_back(static_cast<io_uring_sqe*>(entries_)[sq_array_[i & sq_mask_]].user_data);
    __atomic_store_n(sq_tail_, head, __ATOMIC_RELEASE);
    unsubmitted_ = 0;
    return tags;
  }

  bool pop(uint64_t& tag, int64_t& result) {
    const unsigned head = *cq_head_;
    if (head == __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE)) return false;
    const io_uring_cqe& entry = completions_[head & cq_mask_];
    tag = entry.user_data, result = entry.res;
    __atomic_store_n(cq_head_, head + 1, __ATOMIC_RELEASE);
    return true;
  }

 private:
  int enter(unsigned least, unsigned flags) {
    const long done = syscall(__NR_io_uring_enter, fd_, unsubmitted_, least, flags, nullptr, 0);
    if (done < 0) return errno;
    unsubmitted_ -= unsigned(done);
    return 0;
  }
  void* map(size_t bytes, int64_t offset) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, offset);
    return p == MAP_FAILED ? nullptr : p;
  }
  int fd_ = -1;
  void *rings_ = nullptr, *entries_ = nullptr;
  size_t ring_bytes_ = 0, entry_bytes_ = 0;
  unsigned *sq_head_ = nullptr, *sq_tail_ = nullptr, *sq_array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  unsigned sq_mask_ = 0, cq_mask_ = 0, unsubmitted_ = 0;
  io_uring_cqe* completions_ = nullptr;
};

// One of the `depth` places: a part under way and what is left of it.
struct Place {
  Part part;
  size_t done = 0;
  int tries = 0;
  iovec vectors[kMaxSegments];
};

struct Shared {
  std::shared_ptr<ReadQueue> queue;
  Ring ring;
  int wake = -1;
  std::vector<Place> places;
  std::vector<size_t> free;
  uint64_t wakes = 0;
  std::atomic<bool> is_woken{false};  // a wake-up is on its way: no second one is needed
  iovec wake_vector{&wakes, sizeof wakes};
  std::mutex mutex;
  std::condition_variable ended;
  bool is_running = true;
  std::unique_ptr<Backend> threads;  // what reads on once the ring was given up
  std::string why_not;
  ~Shared() {
    if (wake >= 0) close(wake);
  }
};

void start(Shared& s, size_t index) {
  Place& place = s.places[index];
  Target targets[kMaxSegments];
  const size_t count = ReadQueue::scatter(place.part, place.done, targets);
  for (size_t i = 0; i < count; ++i) place.vectors[i] = {targets[i].address, targets[i].bytes};
  s.ring.push(IORING_OP_READV, place.part.read->request.fd, place.vectors, unsigned(count),
              ReadQueue::file_offset(place.part) + int64_t(place.done), index);
}

void await_wake(Shared& s) { s.ring.push(IORING_OP_READV, s.wake, &s.wake_vector, 1, 0, kWake); }

void fill(Shared& s) {
  while (!s.free.empty()) {
    const Part part = s.queue->take(false);
    if (!part.read) return;
    if (!s.queue->is_intact(part)) continue;
    const size_t index = s.free.back();
    s.free.pop_back();
    s.places[index].part = part;
    s.places[index].done = 0, s.places[index].tries = 0;
    start(s, index);
  }
}

struct Finished {
  Part part;
  int64_t result;
};

// Whether the ring refuses the read itself rather than the drive: a plain read tells.
bool is_refused(int64_t result) {
  for (const int code : {EINTR, EAGAIN, EINVAL, EOPNOTSUPP, ENOSYS, EPERM, EACCES, ENOMEM, ECANCELED, EBADF})
    if (result == -code) return true;
  return false;
}

// Takes a completion; true if its part is over. The place is free then.
bool settle(Shared& s, size_t index, int64_t result, Finished& over) {
  Place& place = s.places[index];
  const size_t wanted = ReadQueue::bytes(place.part);
  if ((result == -EINTR || result == -EAGAIN) && ++place.tries < kMaxTries) {
    start(s, index);
    return false;
  }
  if (is_refused(result)) {
    const int64_t got = read_plainly(place.part, place.done);
    result = got < 0 ? got : got - int64_t(place.done);
    if (result > 0) place.done += size_t(result), result = 0;
  }
  if (result > 0) {
    place.done += size_t(result);
    if (place.done < wanted && place.done % kPage == 0) {
      start(s, index);
      return false;
    }
  }
  s.queue->landed();
  over = {std::move(place.part), result < 0 ? result : int64_t(place.done)};
  place.part = {};
  s.free.push_back(index);
  return true;
}

// Takes every completion there is; returns how many. Parts that are over go to `over`.
size_t drain(Shared& s, std::vector<Finished>& over) {
  uint64_t tag;
  int64_t result;
  size_t count = 0;
  for (; s.ring.pop(tag, result); ++count) {
    if (tag == kWake) {
      s.is_woken = false;  // before the queue is looked at
      await_wake(s);
      continue;
    }
    Finished one;
    if (settle(s, size_t(tag), result, one)) over.push_back(std::move(one));
  }
  return count;
}

void finish(Shared& s, std::vector<Finished>& over) {
  for (const Finished& one : over) s.queue->finish(one.part, one.result);
  over.clear();
}

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
    if (tag != kWake && settle(s, size_t(tag), -ECANCELED, one)) over.push_back(std::move(one));
  }
  finish(s, over);
  while (s.free.size() < s.places.size()) {
    std::this_thread::sleep_for(kPause);
    drain(s, over);
    finish(s, over);
    for (const uint64_t tag : s.ring.take_back()) {  // the rest of a read that came short
      Finished one;
      if (tag != kWake && settle(s, size_t(tag), -ECANCELED, one)) over.push_back(std::move(one));
    }
    finish(s, over);
  }
  if (s.threads == nullptr) read_until_closed(*s.queue, {});  // there is no thread but this one
}

void run(const std::shared_ptr<Shared>& shared) {
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
