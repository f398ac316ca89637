// Are the bytes that landed those of the record? CRC-32C of each segment, summed up part by part, and its stamp.
#include <algorithm>
#include <cstring>
#include <utility>

#include "../../../base/src/crc32c.hpp"
#include "reader.hpp"

namespace hobbit {
namespace {

constexpr uint32_t kMagic = 0x31524248;  // "HBR1"

uint32_t load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// What two spans share; 0 bytes if they do not touch.
ReadLayout::Span common(const ReadLayout::Span& a, const ReadLayout::Span& b) {
  const size_t from = std::max(a.start, b.start), to = std::min(a.start + a.bytes, b.start + b.bytes);
  return {from, to > from ? to - from : 0};
}

bool overlap(const ReadLayout::Span& a, const ReadLayout::Span& b) { return common(a, b).bytes != 0; }

// CRC-32C of a range of a read.
uint32_t sum_of(const Request& request, const ReadLayout::Span& range) {
  size_t at = 0;
  uint32_t sum = 0;
  for (const Target& target : request.targets) {
    const ReadLayout::Span here = common(range, {at, target.bytes});
    if (here.bytes) sum = crc32c(target.address + (here.start - at), here.bytes, sum);
    at += target.bytes;
  }
  return sum;
}

// What a part adds to the sum of each segment. It is summed up while the next ones are on their way, so that little is
// left to do when the last one has come.
std::vector<uint32_t> sums_of(const Part& part) {
  const Request& request = part.read->request;
  std::vector<uint32_t> sums;
  for (const ReadLayout::Span& segment : request.layout->segments) {
    const ReadLayout::Span range = common(segment, request.layout->parts[part.index]);
    const size_t behind = segment.start + segment.bytes - (range.start + range.bytes);
    sums.push_back(range.bytes ? crc32c_shift(sum_of(request, range), behind) : 0);
  }
  return sums;
}

}  // namespace

ReadLayout::ReadLayout(std::vector<Span> segments_, std::vector<Span> parts_)
    : segments(std::move(segments_)), parts(std::move(parts_)) {
  for (const Span& segment : segments) {
    size_t count = 0;
    for (const Span& part : parts) count += overlap(segment, part);
    parts_of.push_back(count);
  }
}

// Returns the segments that are complete with this part.
std::vector<size_t> ReadQueue::count_in(const Part& part) {
  const std::vector<uint32_t> sums = sums_of(part);  // without the lock
  std::vector<size_t> complete;
  std::lock_guard<std::mutex> lock(mutex_);
  Read& read = *part.read;
  const ReadLayout& layout = *read.request.layout;
  for (size_t s = 0; s < layout.segments.size(); ++s) {
    if (!overlap(layout.segments[s], layout.parts[part.index])) continue;  // its sum may be looked at just now
    read.sums[s] ^= sums[s];
    if (--read.segment_left[s] == 0) complete.push_back(s);
  }
  return complete;
}

// Runs without the lock: nothing is added to these sums any more.
Outcome ReadQueue::checked(const Read& read, const std::vector<size_t>& complete) {
  const Request& request = read.request;
  Outcome why;
  for (const size_t s : complete) {
    if (read.sums[s] != request.checksums[s]) {
      why.fault = Fault::checksum;
      why.segment = int64_t(s), why.expected = request.checksums[s], why.got = read.sums[s];
      return why;
    }
    if (s != 0 || !request.has_stamp) continue;
    const uint8_t* start = request.targets.front().address;
    const uint32_t magic = load32(start), layer = load32(start + 4), expert = load32(start + 8);
    if (magic != kMagic || layer != request.layer || expert != request.expert) {
      why.fault = Fault::stamp;
      why.got = magic, why.layer = layer, why.expert = expert;
      return why;
    }
  }
  return why;
}

}  // namespace hobbit
