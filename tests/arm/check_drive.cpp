// Reads records from a file through the drive reader and compares every byte: with io_uring where the kernel has it
// (under user-mode emulation it has not, and the reader must say so), and with threads.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../edge_runtime/experts/drive/src/reader.hpp"
#include "../../edge_runtime/base/src/crc32c.hpp"

namespace {

constexpr size_t kRecords = 12, kSegment = 12288, kBytes = 2 * kSegment;

#define REQUIRE(condition)                                              \
  if (!(condition)) {                                                   \
    std::fprintf(stderr, "check_drive: line %d: %s\n", __LINE__, #condition); \
    std::exit(1);                                                       \
  }

std::vector<uint8_t> make_file(const char* path) {
  std::vector<uint8_t> data(kRecords * kBytes);
  uint32_t state = 1;
  for (auto& byte : data) byte = uint8_t((state = state * 1664525 + 1013904223) >> 24);
  for (uint32_t r = 0; r < kRecords; ++r) {
    const uint32_t head[3] = {0x31524248, 3, r};
    std::memcpy(data.data() + r * kBytes, head, sizeof head);
  }
  const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
  REQUIRE(fd >= 0 && write(fd, data.data(), data.size()) == ssize_t(data.size()));
  close(fd);
  return data;
}

void read_all(const char* path, const std::vector<uint8_t>& data, bool use_uring) {
  using namespace hobbit;
  auto queue = std::make_shared<ReadQueue>(true, 2);
  std::string why_not;
  std::unique_ptr<Backend> backend;
  if (use_uring) backend = make_uring_backend(queue, 4, why_not);
  std::printf("check_drive: %s\n", backend ? "io_uring" : use_uring ? ("threads: " + why_not).c_str() : "threads");
  if (!backend) backend = make_thread_backend(queue, 4, {});
  std::vector<ReadLayout::Span> parts;
  for (size_t at = 0; at < kBytes; at += 8192) parts.push_back({at, 8192});
  const auto layout =
      std::make_shared<ReadLayout>(std::vector<ReadLayout::Span>{{0, kSegment}, {kSegment, kSegment}}, parts);
  const int fd = open(path, O_RDONLY);
  std::vector<uint8_t> memory(data.size());
  for (uint64_t r = 0; r < kRecords; ++r) {
    const uint8_t* record = data.data() + r * kBytes;
    uint32_t second = crc32c(record + kSegment, kSegment, 0);
    if (r == 5) second ^= 1;  // one record is damaged
    uint8_t* into = memory.data() + r * kBytes;
    queue->push({r, int(r % 3), layout, fd, int64_t(data.size()), int64_t(r * kBytes),
                 {{into, kSegment}, {into + kSegment, kSegment}},
                 {crc32c(record, kSegment, 0), second}, true, 3, uint32_t(r)});
  }
  size_t done = 0;
  while (done < kRecords) {
    const auto outcomes = queue->wait_done(30.0);
    REQUIRE(!outcomes.empty());
    for (const auto& outcome : outcomes) {
      REQUIRE(outcome.fault == (outcome.id == 5 ? Fault::checksum : Fault::none));
      queue->forget(outcome.id);
      ++done;
    }
  }
  REQUIRE(memory == data);
  REQUIRE(queue->stats().bytes == data.size() && queue->stats().reads == kRecords - 1);
  queue->close();
  REQUIRE(backend->join(10.0));
  close(fd);
}

}  // namespace

int main(int count, char** args) {
  REQUIRE(count == 2);
  const auto data = make_file(args[1]);
  read_all(args[1], data, true);
  read_all(args[1], data, false);
  unlink(args[1]);
  std::puts("check_drive: passed");
}
