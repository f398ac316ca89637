// An io_uring by raw system calls, so that nothing has to be installed.
#pragma once
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace hobbit {

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

}  // namespace hobbit
