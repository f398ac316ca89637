// Threads that read sleep nearly always, and the drive may stand idle until they run.
#pragma once
#include <cstdint>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hobbit {

// From Linux 6.12 on a thread that asks for short time slices interrupts those with longer ones, such as threads that
// compute, when it wakes up. Its share of the processor stays, and it needs no privilege. Older kernels change nothing.
inline void ask_for_short_slices() {
#if defined(SYS_sched_getattr) && defined(SYS_sched_setattr)
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } own{};
  constexpr uint64_t kShortest = 100000;  // ns: what the kernel takes at least
  if (syscall(SYS_sched_getattr, 0, &own, unsigned(sizeof own), 0) != 0 || own.policy != SCHED_OTHER) return;
  own.runtime = kShortest;
  syscall(SYS_sched_setattr, 0, &own, 0);  // a wish: without it everything works
#endif
}

}  // namespace hobbit
