// Reads under way in a ring: each has a place, which is free again when its part is over. Included by uring.cpp alone.
#pragma once
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "reader.hpp"
#include "ring.hpp"

namespace hobbit {
namespace {

constexpr size_t kPage = 4096;
constexpr uint64_t kWake = ~uint64_t(0);
constexpr int kMaxTries = 16;  // of one read that is interrupted

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

inline void start(Shared& s, size_t index) {
  Place& place = s.places[index];
  Target targets[kMaxSegments];
  const size_t count = ReadQueue::scatter(place.part, place.done, targets);
  for (size_t i = 0; i < count; ++i) place.vectors[i] = {targets[i].address, targets[i].bytes};
  s.ring.push(IORING_OP_READV, place.part.read->request.fd, place.vectors, unsigned(count),
              ReadQueue::file_offset(place.part) + int64_t(place.done), index);
}

inline void await_wake(Shared& s) { s.ring.push(IORING_OP_READV, s.wake, &s.wake_vector, 1, 0, kWake); }

inline void fill(Shared& s) {
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
inline bool is_refused(int64_t result) {
  for (const int code : {EINTR, EAGAIN, EINVAL, EOPNOTSUPP, ENOSYS, EPERM, EACCES, ENOMEM, ECANCELED, EBADF})
    if (result == -code) return true;
  return false;
}

// Takes a completion; true if its part is over. The place is free then.
inline bool finish_part(Shared& s, size_t index, int64_t result, Finished& over) {
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
inline size_t drain(Shared& s, std::vector<Finished>& over) {
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
    if (finish_part(s, size_t(tag), result, one)) over.push_back(std::move(one));
  }
  return count;
}

inline void finish(Shared& s, std::vector<Finished>& over) {
  for (const Finished& one : over) s.queue->finish(one.part, one.result);
  over.clear();
}

}  // namespace
}  // namespace hobbit
