// Reads of expert records: queued by priority, cut into parts, checked where they land.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace hobbit {

constexpr size_t kMaxSegments = 4;

// How the segments of one kind of read are cut into parts; offsets from the read's first byte.
struct ReadLayout {
  struct Span {
    size_t start, bytes;
  };
  ReadLayout(std::vector<Span> segments, std::vector<Span> parts);
  std::vector<Span> segments;  // at most kMaxSegments, without gaps
  std::vector<Span> parts;    // in order, together the whole read
  std::vector<size_t> parts_of;  // how many parts hold bytes of each segment
};

// Where a read's bytes go: segments one after the other, in memory that need not be contiguous.
struct Target {
  uint8_t* address;
  size_t bytes;
};

enum class Fault : int {
  none = 0,
  system,    // code: errno; at, bytes: of the part
  too_short, // got: bytes that came; at, bytes: of the part
  checksum,  // segment, expected, got
  stamp,     // got: magic word; layer, expert: what the record says
  removed,   // the open file has no name any more
  resized,   // got: bytes of the file now
  closed,    // the reader was closed before the read ran
  raised,    // the replaced read function raised; message
  cancelled, // nobody wants it any more; what had not started was not read
};

struct Outcome {
  uint64_t id = 0;
  Fault fault = Fault::none;
  int64_t code = 0, at = 0, bytes = 0, segment = 0, expected = 0, got = 0, layer = 0, expert = 0;
  int64_t started_ns = 0, finished_ns = 0;
  std::string message;
};

struct Request {
  uint64_t id;
  int priority;  // lower is sooner
  std::shared_ptr<const ReadLayout> layout;
  int fd;
  int64_t file_bytes;  // the file must still have this size
  int64_t offset;      // of the read's first byte in the file
  std::vector<Target> targets;
  std::vector<uint32_t> checksums;  // CRC-32C of each segment
  bool has_stamp;                   // segment 0 starts with magic, layer, expert
  uint32_t layer, expert;
};

// Stands in for preadv in tests; fills `bytes` at `into` and returns how many came, or -errno.
// May throw: the read then fails with the exception's text.
using ReadFunction = std::function<int64_t(int fd, uint8_t* into, size_t bytes, int64_t offset)>;

struct ReadStats {
  uint64_t reads, bytes;
  int64_t busy_ns;
};

// One read in progress. Its parts are claimed in order under the queue's lock.
struct Read {
  Request request;
  uint64_t arrival = 0;
  size_t next_part = 0, parts_left = 0, bytes_landed = 0;
  std::vector<size_t> segment_left;  // parts that still hold bytes of it
  std::vector<uint32_t> sums;        // CRC-32C of each segment as far as it has come
  bool is_done = false;
  Outcome outcome;
};

struct Part {
  std::shared_ptr<Read> read;
  size_t index = 0;
};

// What a backend is driven by. Thread safe.
class ReadQueue {
 public:
  // `ahead_depth`: parts under way beyond which only the most urgent ones start. Those read ahead may turn out to be in
  // vain, and what is under way cannot be cancelled.
  ReadQueue(bool drop_cached, int ahead_depth) : drop_cached_(drop_cached), ahead_depth_(size_t(ahead_depth)) {}

  void push(Request request);
  bool promote(uint64_t id, int priority);
  // Reads no further. True: nothing of it is under way, it is gone. False: parts are, or it failed; it will be done
  // after them, as cancelled unless they were the last ones.
  bool cancel(uint64_t id);
  void forget(uint64_t id);
  std::vector<Outcome> wait_done(double timeout_s);
  // Reads and bytes of those that were forgotten or cancelled: what the caller has taken note of, so that a count says
  // what was asked for and not how far the drive had come when somebody looked.
  ReadStats stats() const;

  // For backends. `take` returns the most urgent part, or one without a read if none may start
  // (`block`: only once the queue is closed and empty). After closing, parts come out as failed.
  Part take(bool block);
  void landed();  // the drive is done with a part that was taken, well or not; before it is finished or failed
  void finish(const Part& part, int64_t result);  // bytes read, or -errno
  void fail(const Part& part, Outcome why);
  // Checks the file before a read's first part; false: the part has landed and was failed.
  bool is_intact(const Part& part);
  // Memory of a part from `done` bytes on, as at most kMaxSegments targets; returns their number.
  static size_t scatter(const Part& part, size_t done, Target out[kMaxSegments]);
  static int64_t file_offset(const Part& part);
  static size_t bytes(const Part& part) { return part.read->request.layout->parts[part.index].bytes; }

  void close();
  bool is_closed() const { return closed_.load(); }
  std::function<void()> on_push;  // called without the lock after a read was queued

 private:
  using Key = std::pair<int, uint64_t>;
  bool is_over(const Part& part) const;  // an earlier part failed, or the read was cancelled
  void count(const Read& read);  // under the lock
  std::vector<size_t> count_in(const Part& part);  // what it has of the segments; returns those now complete
  static Outcome checked(const Read& read, const std::vector<size_t>& complete);
  void end_part(const Part& part, const Outcome* why);

  bool may_start() const {
    return !waiting_.empty() && (waiting_.begin()->first.first == 0 || under_way_ < ahead_depth_ || closed_.load());
  }

  const bool drop_cached_;
  const size_t ahead_depth_;
  mutable std::mutex mutex_;
  std::condition_variable work_, done_;
  std::map<Key, std::shared_ptr<Read>> waiting_;
  std::unordered_map<uint64_t, std::shared_ptr<Read>> reads_;  // until forgotten
  std::deque<std::shared_ptr<Read>> finished_;                 // those done, in that order
  uint64_t arrivals_ = 0, num_reads_ = 0, num_bytes_ = 0;
  size_t active_ = 0, under_way_ = 0;  // parts taken: not finished; the drive not done with
  int64_t busy_ns_ = 0, busy_since_ = 0;
  std::atomic<bool> closed_{false};
};

// Runs a queue's parts. `join` returns false if a read does not come back in time.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual bool join(double timeout_s) = 0;
  virtual std::string method() const { return "threads"; }  // what reads are made with
};

// Reads a part from `done` bytes on with preadv, in the caller's thread. Bytes of the whole part, or -errno.
int64_t read_plainly(const Part& part, size_t done);

// Takes parts and reads them, in the caller's thread, until the queue is closed and empty.
void read_until_closed(ReadQueue& queue, const ReadFunction& read);

// With fewer threads where the system gives no more, which `method` says; throws std::runtime_error where it gives none.
std::unique_ptr<Backend> make_thread_backend(std::shared_ptr<ReadQueue> queue, int depth, ReadFunction read);
// Null, with the reason in `why_not`, where the kernel has no io_uring or forbids it.
std::unique_ptr<Backend> make_uring_backend(std::shared_ptr<ReadQueue> queue, int depth, std::string& why_not);

int64_t now_ns();

}  // namespace hobbit
