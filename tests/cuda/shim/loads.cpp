// A request is what the lanes of a warp load at one place of the code, each for the nth time: lanes that are masked off in
// between do not shift the others' loads.
#include "loads.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace {
struct Range {
  uint64_t begin, end;
  std::vector<uint8_t> reads;  // of each byte
};
struct Load {
  uint64_t address;
  uint32_t bytes;
};
std::vector<Range> ranges;
using Site = std::tuple<uint32_t, const void*>;  // a thread, a place of the code
std::map<Site, uint32_t> visits;
using Request = std::tuple<uint32_t, const void*, uint32_t>;  // a warp, a place, the nth visit
std::map<Request, std::vector<Load>> requests;
uint64_t num_requests, num_sectors, num_bytes;
}  // namespace

void note_load(uint64_t address, uint32_t bytes, const void* site, uint32_t thread) {
  const auto range = std::find_if(ranges.begin(), ranges.end(), [&](const Range& r) {
    return address >= r.begin && address + bytes <= r.end;
  });
  if (range == ranges.end()) return;
  for (uint32_t i = 0; i < bytes; ++i) ++range->reads[address - range->begin + i];
  requests[{thread / 32, site, visits[{thread, site}]++}].push_back({address, bytes});
}

void finish_block_loads() {
  for (const auto& [request, loads] : requests) {
    std::set<uint64_t> sectors, bytes;
    for (const Load& load : loads)
      for (uint32_t i = 0; i < load.bytes; ++i) bytes.insert(load.address + i), sectors.insert((load.address + i) / 32);
    ++num_requests;
    num_sectors += sectors.size();
    num_bytes += bytes.size();
  }
  requests.clear();
  visits.clear();
}

extern "C" {
void shim_watch(uint64_t begin, uint64_t end) { ranges.push_back({begin, end, std::vector<uint8_t>(end - begin)}); }
void shim_unwatch() {
  ranges.clear();
  num_requests = num_sectors = num_bytes = 0;
}
// Requests, sectors, distinct bytes of requests.
void shim_totals(uint64_t* out) { out[0] = num_requests, out[1] = num_sectors, out[2] = num_bytes; }
void shim_reads(uint32_t range, uint8_t* out) { std::memcpy(out, ranges[range].reads.data(), ranges[range].reads.size()); }
}
