// State of the fake driver: queues, memory, kernels by name, errors to inject.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_types.hpp"

enum Code : int {
  kOk = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kInvalidDevice = 101, kInvalidImage = 200,
  kAlreadyMapped = 208, kNoBinary = 209, kInvalidHandle = 400, kNotFound = 500, kNotReady = 600,
  kTooManyResources = 701,
  kIllegalAddress = 700, kAlreadyRegistered = 712, kNotRegistered = 713, kCaptureUnsupported = 900,
};

// One piece of queued work. A wait is over when its event has reached the ticket.
struct Work {
  std::function<void()> run;
  CUevent record = nullptr, wait = nullptr;
  uint64_t ticket = 0;
  double ms = 0.25;  // by the device's clock; marks and waits take none
};
constexpr uint64_t kPatience = 8;
struct CUstream_st {
  std::deque<Work> queue;
  CUgraph graph = nullptr;  // while capturing
};
struct CUevent_st {
  uint64_t recorded = 0, done = 0, asked = 0;  // asked: how often in vain since it was recorded
  double at_ms = 0;
  bool timed = true;
};
struct CUgraph_st { std::vector<std::function<void()>> nodes; };
struct CUgraphExec_st { std::vector<std::function<void()>> nodes; };
struct CUmod_st { std::string image; };
struct CUfunc_st {
  std::vector<size_t> sizes;  // of the arguments
  std::function<void(void**)> call;
  unsigned most_threads = 0;
  bool only_reads = false;  // hb_read: its time follows from what it reads, and from where
};
struct CUctx_st {};

struct Launch { uint32_t grid_x, grid_y, threads; };
extern Launch launch_size;                    // of the kernel that runs
std::map<std::string, CUfunc_st>& functions();  // by name; filled by fake_kernels.cpp
extern const std::map<std::string, unsigned> launch_bounds;  // most threads of a block, by kernel; written by build.py
extern size_t device_bytes_left;

enum class Kind { device, pinned, registered };
struct Region { size_t bytes; Kind kind; };
extern std::map<uint64_t, Region> regions;
extern std::map<std::string, long> live;               // what was made and not given back, beside memory

double ms_of_read(uint64_t address, size_t bytes);     // as planted, by the kind of memory
double ms_of_copy(size_t bytes);
uint64_t device_address(uint64_t host);                // of memory of the host, 0 where that is no memory; see fake_stale

bool any_pending();
// Runs queued work until that holds: late, only the stream and what it waits for, or all streams where none is given.
void run_until(const std::function<bool()>& enough, CUstream stream = nullptr);
CUstream stream_that_records(CUevent event, uint64_t ticket);
void run_some();                                       // in random mode
int enqueue(CUstream stream, Work work);
uint64_t take(size_t bytes, Kind kind);
int give_back(uint64_t address, Kind kind);
bool lies_within(uint64_t address, size_t bytes, bool host);
void protect();                                        // device memory is for kernels and copies alone

// Holds the lock of a call, and its injected error.
struct Call {
  explicit Call(const char* name);
  std::lock_guard<std::recursive_mutex> lock;
  int code;
};
