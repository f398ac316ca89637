// The engine of the fake driver.
// - Work is queued. "Late" (the default) runs it when somebody waits for it, and then only what had to be before; "random"
//   at random moments, streams interleaved. Nothing but the order in a stream and events orders it, so a missing wait
//   gives wrong data or a crash.
// - Device memory cannot be touched but while queued work runs: a host access of it is a SIGSEGV.
// - Memory is poisoned, and followed by a page nobody may touch.
// - It is shared memory: as on a board, the system has less of it, and the process has no more anonymous pages.
#include "fake_cuda.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>

Launch launch_size;
size_t device_bytes_left = SIZE_MAX;
std::map<uint64_t, Region> regions;
std::set<CUstream> streams;
std::map<std::string, long> live;

namespace {
constexpr size_t kPage = 4096;
std::recursive_mutex mutex;
std::mt19937_64 generator(1);
bool random_mode = false, inside = false;
double clock_ms = 0;
int rates[3] = {100, 100, 100}, copy_rate = 50;  // 10^9 bytes a second; by Kind
int stale = -1;                                  // a Kind
std::map<uint64_t, uint64_t> shadows;
struct Failure { int code, after; bool once; };
std::map<std::string, Failure> failures;
int sticky = 0;  // errors that leave a context unusable

bool is_ready(const Work& work) { return !work.wait || work.wait->done >= work.ticket; }
std::vector<CUstream> that_can_run() {
  std::vector<CUstream> found;
  for (CUstream s : streams)
    if (!s->queue.empty() && is_ready(s->queue.front())) found.push_back(s);
  return found;
}
void step(CUstream stream) {
  Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (work.run) clock_ms += work.ms;
  if (work.run) {
    inside = true, protect();
    work.run();
    inside = false;
  }
  if (work.record) work.record->done = work.ticket, work.record->at_ms = clock_ms;
}
}  // namespace

Call::Call(const char* name) : lock(mutex), code(sticky) {
  const auto found = failures.find(name);
  if (code || found == failures.end() || found->second.after-- > 0) return;
  code = found->second.code;
  if (found->second.once) failures.erase(found);
  const std::set<int> lost{700, 702, 710, 714, 715, 716, 717, 718, 719};
  if (lost.count(code)) sticky = code;
}

double ms_of_read(uint64_t address, size_t bytes) {
  auto region = regions.upper_bound(address);
  return region == regions.begin() ? 0 : double(bytes) / 1e6 / rates[int((--region)->second.kind)];
}
double ms_of_copy(size_t bytes) { return double(bytes) / 1e6 / copy_rate; }
uint64_t device_address(uint64_t host) {
  if (!lies_within(host, 1, true)) return 0;
  const auto region = std::prev(regions.upper_bound(host));
  if (int(region->second.kind) != stale) return host;
  uint64_t& shadow = shadows[region->first];
  if (!shadow) shadow = take(region->second.bytes, Kind::device);
  return shadow + host - region->first;
}

bool any_pending() {
  for (CUstream s : streams)
    if (!s->queue.empty()) return true;
  return false;
}
void protect() {
  for (const auto& [at, region] : regions)
    if (region.kind == Kind::device)
      mprotect(reinterpret_cast<void*>(at), region.bytes, inside ? PROT_READ | PROT_WRITE : PROT_NONE);
}
CUstream stream_that_records(CUevent event, uint64_t ticket) {
  for (CUstream s : streams)
    for (const Work& work : s->queue)
      if (work.record == event && work.ticket == ticket) return s;
  return nullptr;
}
void run_until(const std::function<bool()>& enough, CUstream stream) {
  while (!enough()) {
    CUstream next = random_mode ? nullptr : stream;
    while (next && !next->queue.empty() && !is_ready(next->queue.front()))
      next = stream_that_records(next->queue.front().wait, next->queue.front().ticket);
    if (!next) {
      const auto can = that_can_run();
      if (can.empty()) std::fprintf(stderr, "fake driver: a stream waits for what nobody records\n"), std::abort();
      next = can[generator() % can.size()];
    }
    step(next);
  }
  protect();
}
void run_some() {
  while (random_mode && generator() % 2) {
    const auto can = that_can_run();
    if (can.empty()) break;
    step(can[generator() % can.size()]);
  }
  protect();
}
int enqueue(CUstream stream, Work work) {
  if (!streams.count(stream)) return kInvalidHandle;
  if (stream->graph) {
    if (!work.run) return kCaptureUnsupported;
    stream->graph->nodes.push_back(std::move(work.run));
    return kOk;
  }
  stream->queue.push_back(std::move(work));
  run_some();
  return kOk;
}

std::map<std::string, CUfunc_st>& functions() {
  static std::map<std::string, CUfunc_st> all;
  return all;
}

uint64_t take(size_t bytes, Kind kind) {
  const size_t whole = (bytes + kPage - 1) / kPage * kPage;
  if (kind == Kind::device && whole > device_bytes_left) return 0;
  void* p = mmap(nullptr, whole + kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 0;
  if (kind == Kind::device) device_bytes_left -= whole;
  mprotect(static_cast<char*>(p) + whole, kPage, PROT_NONE);
  std::memset(p, 0xFF, whole);
  regions[reinterpret_cast<uint64_t>(p)] = {whole, kind};
  protect();
  return reinterpret_cast<uint64_t>(p);
}
int give_back(uint64_t address, Kind kind) {
  // freeing the GPU's memory waits; of the host's nothing says that it does, so nobody may rely on it
  if (kind == Kind::device) run_until([] { return !any_pending(); });
  if (any_pending()) std::fprintf(stderr, "fake driver: memory of the host given back before queued work\n"), std::abort();
  const auto found = regions.find(address);
  if (found == regions.end() || found->second.kind != kind) return kInvalidValue;
  if (kind != Kind::registered) munmap(reinterpret_cast<void*>(address), found->second.bytes + kPage);
  if (kind == Kind::device) device_bytes_left += found->second.bytes;
  regions.erase(found);
  const auto shadow = shadows.find(address);
  if (shadow != shadows.end()) {
    const uint64_t behind = shadow->second;
    shadows.erase(shadow);
    return give_back(behind, Kind::device);
  }
  return kOk;
}
bool lies_within(uint64_t address, size_t bytes, bool host) {
  auto region = regions.upper_bound(address);
  if (region == regions.begin()) return false;
  --region;
  const bool fits = address + bytes <= region->first + region->second.bytes;
  return fits && (!host || region->second.kind != Kind::device);
}

extern "C" {
void fake_mode(int random, uint64_t seed) { random_mode = random != 0, generator.seed(seed); }
// The call `name` fails with `code` once, after so many successes. Some codes leave the context unusable.
void fake_fail(const char* name, int code, int after) { failures[name] = {code, after, true}; }
void fake_fail_always(const char* name, int code) { failures[name] = {code, 0, false}; }
// As if the process had started again: nothing of a context that was lost is left, and its work never runs.
void fake_recover() {
  if (sticky) {
    streams.clear();
    regions.clear();
    shadows.clear();
    live.clear();
  }
  failures.clear(), sticky = 0;
}
// Whatever is left is nobody's concern any more: a test has said so.
void fake_forget() { regions.clear(), shadows.clear(), live.clear(); }
void fake_device_bytes(size_t bytes) { device_bytes_left = bytes; }
// How fast kernels read each kind of memory, and copies to the device are, in 10^9 bytes a second of its clock.
void fake_rates(int device, int pinned, int registered, int copies) {
  rates[0] = device, rates[1] = pinned, rates[2] = registered, copy_rate = copies;
}
// Kernels see memory of the host of one kind (1 pinned, 2 registered; -1: of none) as it was before anything was written.
void fake_stale(int kind) { stale = kind; }
// Sizes of the arguments of a kernel, at most 16; returns how many.
int fake_argument_sizes(const char* name, size_t* out) {
  const auto& sizes = functions().at(name).sizes;
  for (size_t i = 0; i < sizes.size(); ++i) out[i] = sizes[i];
  return int(sizes.size());
}
size_t fake_live_regions() { return regions.size(); }
// What was made and not given back, in words, valid until the next call. Nothing is left of a context that was lost.
const char* fake_live_said() {
  static std::string text;
  text.clear();
  if (sticky) return text.c_str();
  for (const auto& [at, region] : regions) {
    const char* kinds[] = {"device", "pinned", "registered"};
    text += std::to_string(region.bytes) + " bytes of " + kinds[int(region.kind)] + " memory; ";
  }
  for (const auto& [kind, count] : live)
    if (count) text += std::to_string(count) + " " + kind + "; ";
  return text.c_str();
}
// Bytes of the system's memory that the driver holds: what it pinned, and the GPU's own where that is the system's.
size_t fake_held_bytes(int with_device) {
  size_t sum = 0;
  for (const auto& [at, region] : regions)
    if (region.kind == Kind::pinned || (with_device && region.kind == Kind::device)) sum += region.bytes;
  return sum;
}
}
