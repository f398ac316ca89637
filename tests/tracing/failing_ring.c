// Makes io_uring fail as the kernel can: HOBBIT_X_RING = "enter ERRNO AFTER" lets that many io_uring_enter calls pass and
// fails all others; "enter ERRNO AFTER COUNT" fails only COUNT of them. For LD_PRELOAD; `syscall` is what the reader calls.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>

typedef long (*call)(long, long, long, long, long, long, long);
static atomic_long calls;

long syscall(long number, ...) {
  va_list list;
  long a[6];
  va_start(list, number);
  for (int i = 0; i < 6; ++i) a[i] = va_arg(list, long);
  va_end(list);
  const char* wanted = getenv("HOBBIT_X_RING");
  long code = 0, after = 0, count = 1L << 60;
  if (wanted && number == __NR_io_uring_enter && sscanf(wanted, "enter %ld %ld %ld", &code, &after, &count) >= 2) {
    const long mine = atomic_fetch_add(&calls, 1);
    if (mine >= after && mine - after < count) {
      errno = (int)code;
      return -1;
    }
  }
  return ((call)dlsym(RTLD_NEXT, "syscall"))(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
