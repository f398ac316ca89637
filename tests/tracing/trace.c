// Preloaded into a process: writes a line to $TRACE_LOG for every socket, name lookup and file opened for writing.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *what, const char *detail) {
  const char *log = getenv("TRACE_LOG");
  if (!log) return;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  char line[4400];
  int size = snprintf(line, sizeof line, "%s %.4300s\n", what, detail);
  if (write(fd, line, (size_t)size) < 0) abort();
  close(fd);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *absolute(int folder, const char *path, char *buffer) {
  if (path[0] == '/') return path;
  char link[64], base[4096];
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  ssize_t size = readlink(link, base, sizeof base - 1);
  if (size < 0) return path;
  base[size] = 0;
  snprintf(buffer, 8300, "%s/%s", base, path);
  return buffer;
}

static void note_open(int folder, const char *path, int flags) {
  char buffer[8300];
  if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) note("write", absolute(folder, path, buffer));
}

static mode_t mode_of(int flags, va_list *list) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(*list, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
  int name(const char *path, int flags, ...) {                                                                         \
    va_list list;                                                                                                      \
    va_start(list, flags);                                                                                             \
    mode_t mode = mode_of(flags, &list);                                                                               \
    va_end(list);                                                                                                      \
    note_open(AT_FDCWD, path, flags);                                                                                  \
    return REAL(name)(path, flags, mode);                                                                              \
  }
#define OPENAT(name)                                                                                                   \
  int name(int folder, const char *path, int flags, ...) {                                                             \
    va_list list;                                                                                                      \
    va_start(list, flags);                                                                                             \
    mode_t mode = mode_of(flags, &list);                                                                               \
    va_end(list);                                                                                                      \
    note_open(folder, path, flags);                                                                                    \
    return REAL(name)(folder, path, flags, mode);                                                                      \
  }
#define FOPEN(name)                                                                                                    \
  FILE *name(const char *path, const char *mode) {                                                                     \
    if (strpbrk(mode, "wa+")) note_open(AT_FDCWD, path, O_WRONLY);                                                     \
    return REAL(name)(path, mode);                                                                                     \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)

int mkdir(const char *path, mode_t mode) {
  char buffer[8300];
  note("write", absolute(AT_FDCWD, path, buffer));
  return REAL(mkdir)(path, mode);
}

int socket(int domain, int type, int protocol) {
  char text[64];
  snprintf(text, sizeof text, "%d", domain);
  note("socket", text);
  return REAL(socket)(domain, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t size) {
  char text[64];
  snprintf(text, sizeof text, "%d", address->sa_family);
  note("connect", text);
  return REAL(connect)(fd, address, size);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  note("lookup", node ? node : "(any)");
  return REAL(getaddrinfo)(node, service, hints, found);
}
