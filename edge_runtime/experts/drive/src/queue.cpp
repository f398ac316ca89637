#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "reader.hpp"

namespace hobbit {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void ReadQueue::push(Request request) {
  auto read = std::make_shared<Read>();
  const ReadLayout& layout = *request.layout;
  read->parts_left = layout.parts.size();
  read->segment_left = layout.parts_of;
  read->sums.assign(layout.segments.size(), 0);
  read->outcome.id = request.id;
  read->outcome.started_ns = now_ns();
  read->request = std::move(request);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    read->arrival = arrivals_++;
    reads_[read->request.id] = read;
    waiting_.emplace(Key(read->request.priority, read->arrival), read);
  }
  work_.notify_all();
  if (on_push) on_push();
}

bool ReadQueue::promote(uint64_t id, int priority) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = reads_.find(id);
  if (found == reads_.end()) return false;
  const std::shared_ptr<Read> read = found->second;
  if (priority >= read->request.priority) return false;
  const bool is_waiting = waiting_.erase(Key(read->request.priority, read->arrival)) != 0;
  read->request.priority = priority;
  if (!is_waiting) return false;
  waiting_.emplace(Key(priority, read->arrival), read);
  lock.unlock();
  work_.notify_all();  // it may start now where it had to wait before
  if (on_push) on_push();
  return true;
}

bool ReadQueue::cancel(uint64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = reads_.find(id);
  if (found == reads_.end()) return true;
  const std::shared_ptr<Read>& read = found->second;
  if (read->outcome.fault != Fault::none) return false;                                // it ends, and says why
  if (waiting_.erase(Key(read->request.priority, read->arrival)) == 0) return false;  // all of it has started
  read->parts_left -= read->request.layout->parts.size() - read->next_part;
  if (read->parts_left == 0) {
    count(*read);
    reads_.erase(found);
    return true;
  }
  read->outcome.fault = Fault::cancelled;
  return false;
}

void ReadQueue::forget(uint64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = reads_.find(id);
  if (found == reads_.end() || !found->second->is_done) return;
  finished_.erase(std::find(finished_.begin(), finished_.end(), found->second));
  count(*found->second);
  reads_.erase(found);
}

void ReadQueue::count(const Read& read) {
  num_reads_ += read.is_done && read.outcome.fault == Fault::none;
  num_bytes_ += read.bytes_landed;
}

std::vector<Outcome> ReadQueue::wait_done(double timeout_s) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (timeout_s > 0)  // a wait that has expired already still costs a timer
    done_.wait_for(lock, std::chrono::duration<double>(timeout_s), [&] { return !finished_.empty(); });
  std::vector<Outcome> done;
  for (const auto& read : finished_) done.push_back(read->outcome);
  return done;
}

ReadStats ReadQueue::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {num_reads_, num_bytes_, busy_ns_ + (active_ ? now_ns() - busy_since_ : 0)};
}

Part ReadQueue::take(bool block) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (block) work_.wait(lock, [&] { return may_start() || closed_.load(); });
  if (!may_start()) return {};
  ++under_way_;
  const auto first = waiting_.begin();
  const Part part{first->second, first->second->next_part++};
  if (part.read->next_part == part.read->request.layout->parts.size()) waiting_.erase(first);
  if (active_++ == 0) busy_since_ = now_ns();
  return part;
}

void ReadQueue::landed() {
  std::lock_guard<std::mutex> lock(mutex_);
  --under_way_;
  if (!waiting_.empty()) work_.notify_one();
}

bool ReadQueue::is_over(const Part& part) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return part.read->outcome.fault != Fault::none;
}

bool ReadQueue::is_intact(const Part& part) {
  if (is_over(part)) {  // nothing more is read
    landed();
    end_part(part, nullptr);
    return false;
  }
  Outcome why;
  if (closed_.load()) {
    why.fault = Fault::closed;
  } else if (part.index == 0) {
    struct stat found;
    const Request& request = part.read->request;
    if (fstat(request.fd, &found) != 0) {
      why.fault = Fault::system, why.code = errno, why.at = request.offset;
      why.bytes = int64_t(bytes(part));
    } else if (found.st_nlink == 0) {
      why.fault = Fault::removed;
    } else if (found.st_size != request.file_bytes) {
      why.fault = Fault::resized, why.got = found.st_size;
    }
  }
  if (why.fault == Fault::none) return true;
  landed();
  fail(part, why);
  return false;
}

size_t ReadQueue::scatter(const Part& part, size_t done, Target out[kMaxSegments]) {
  const auto& span = part.read->request.layout->parts[part.index];
  size_t at = 0, from = span.start + done, left = span.bytes - done, count = 0;
  for (const Target& target : part.read->request.targets) {
    if (left && from < at + target.bytes) {
      const size_t skip = from - at, take = std::min(target.bytes - skip, left);
      out[count++] = {target.address + skip, take};
      from += take, left -= take;
    }
    at += target.bytes;
  }
  return count;
}

int64_t ReadQueue::file_offset(const Part& part) {
  return part.read->request.offset + int64_t(part.read->request.layout->parts[part.index].start);
}

void ReadQueue::finish(const Part& part, int64_t result) {
  Outcome why;
  const int64_t wanted = int64_t(bytes(part));
  why.at = file_offset(part), why.bytes = wanted;
  if (result < 0) {
    why.fault = Fault::system, why.code = -result;
    return end_part(part, &why);
  }
  if (result < wanted) {
    why.fault = Fault::too_short, why.got = result;
    return end_part(part, &why);
  }
  if (drop_cached_) posix_fadvise(part.read->request.fd, why.at, wanted, POSIX_FADV_DONTNEED);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    part.read->bytes_landed += size_t(wanted);
  }
  if (is_over(part)) return end_part(part, nullptr);  // nobody wants it: no checksum is needed
  // without the lock: these bytes have come, and nobody else touches them
  why = checked(*part.read, count_in(part));
  end_part(part, why.fault == Fault::none ? nullptr : &why);
}

void ReadQueue::fail(const Part& part, Outcome why) { end_part(part, &why); }

void ReadQueue::end_part(const Part& part, const Outcome* why) {
  Read& read = *part.read;
  bool is_last;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (why != nullptr && read.outcome.fault == Fault::none) {
      const Outcome before = read.outcome;
      read.outcome = *why;
      read.outcome.id = before.id, read.outcome.started_ns = before.started_ns;
    }
    is_last = --read.parts_left == 0;
    if (is_last) {
      read.is_done = true;
      read.outcome.finished_ns = now_ns();
      finished_.push_back(part.read);
    }
    if (--active_ == 0) busy_ns_ += now_ns() - busy_since_;
  }
  if (is_last) done_.notify_all();
}

void ReadQueue::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  work_.notify_all();
  if (on_push) on_push();
}

}  // namespace hobbit
