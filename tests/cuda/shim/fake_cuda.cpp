// A libcuda.so.1 for machines without a GPU: the driver calls the runtime makes, over the host build of its kernels.
#include "fake_cuda.hpp"

#include <cstdio>
#include <cstring>
#include <memory>
#include <set>

extern std::set<CUstream> streams;

CHECK_NUMBER(CUDA_ERROR_OUT_OF_MEMORY, kOutOfMemory);
CHECK_NUMBER(CUDA_ERROR_NOT_INITIALIZED, kNotInitialized);
CHECK_NUMBER(CUDA_ERROR_INVALID_DEVICE, kInvalidDevice);
CHECK_NUMBER(CUDA_ERROR_INVALID_IMAGE, kInvalidImage);
CHECK_NUMBER(CUDA_ERROR_ALREADY_MAPPED, kAlreadyMapped);
CHECK_NUMBER(CUDA_ERROR_NO_BINARY_FOR_GPU, kNoBinary);
CHECK_NUMBER(CUDA_ERROR_INVALID_HANDLE, kInvalidHandle);
CHECK_NUMBER(CUDA_ERROR_NOT_FOUND, kNotFound);
CHECK_NUMBER(CUDA_ERROR_NOT_READY, kNotReady);
CHECK_NUMBER(CUDA_ERROR_ILLEGAL_ADDRESS, kIllegalAddress);
CHECK_NUMBER(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, kTooManyResources);
CHECK_NUMBER(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, kAlreadyRegistered);
CHECK_NUMBER(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, kNotRegistered);
CHECK_NUMBER(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, kCaptureUnsupported);
// attributes of a device
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_INTEGRATED, 18);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 19);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 38);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 88);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 89);
CHECK_NUMBER(CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 99);
// flags
CHECK_NUMBER(CU_STREAM_NON_BLOCKING, 1);
CHECK_NUMBER(CU_EVENT_DISABLE_TIMING, 2);
CHECK_NUMBER(CU_MEMHOSTALLOC_PORTABLE, 1);
CHECK_NUMBER(CU_MEMHOSTREGISTER_PORTABLE, 1);
#if defined(WITH_CUDA_H)
static_assert(CU_MEMHOSTALLOC_DEVICEMAP == 2 && CU_MEMHOSTREGISTER_DEVICEMAP == 2);
#endif

namespace {
int driver_version = CUDA_VERSION, capability = 87, num_devices = 1, integrated = 1, multiprocessors = 8;
size_t total_bytes = size_t(8) << 30;
CUctx_st context;
bool initialized = false;

template <class Handle> uint64_t address_of(Handle handle) { return reinterpret_cast<uint64_t>(handle); }
CUresult result(int code) { return CUresult(code); }
std::function<void()> copy(uint64_t to, uint64_t from, size_t bytes) {
  return [=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); };
}
}  // namespace

#define CALL(name)                           \
  const Call call(name);                     \
  if (call.code) return result(call.code)
#define REQUIRE(condition, code) \
  if (!(condition)) return result(code)

extern "C" {
void fake_device(int version, int sm, int devices) { driver_version = version, capability = sm, num_devices = devices; }
void fake_board(int processors, size_t bytes) { multiprocessors = processors, total_bytes = bytes; }
void fake_integrated(int shares) { integrated = shares; }

CUresult cuInit(unsigned) { CALL("cuInit"); initialized = true; return result(kOk); }
CUresult cuDriverGetVersion(int* out) { CALL("cuDriverGetVersion"); *out = driver_version; return result(kOk); }
CUresult cuDeviceGetCount(int* out) {
  CALL("cuDeviceGetCount");
  REQUIRE(initialized, kNotInitialized);
  *out = num_devices;
  return result(kOk);
}
CUresult cuDeviceGet(CUdevice* out, int index) {
  CALL("cuDeviceGet");
  REQUIRE(index >= 0 && index < num_devices, kInvalidDevice);
  *out = index;
  return result(kOk);
}
CUresult cuDeviceGetName(char* out, int size, CUdevice) {
  CALL("cuDeviceGetName");
  std::snprintf(out, size_t(size), "Fake Orin");
  return result(kOk);
}
CUresult cuDeviceTotalMem_v2(size_t* out, CUdevice) { CALL("cuDeviceTotalMem_v2"); *out = total_bytes; return result(kOk); }
CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice) {
  CALL("cuDeviceGetAttribute");
  switch (int(attribute)) {
    case 75: *out = capability / 10; break;
    case 76: *out = capability % 10; break;
    case 16: *out = multiprocessors; break;
    case 18: *out = integrated; break;
    case 38: *out = 4 << 20; break;
    case 19: case 99: *out = 1; break;
    default: *out = 0;
  }
  return result(kOk);
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice) { CALL("cuDevicePrimaryCtxRetain"); *out = &context, ++live["contexts"]; return result(kOk); }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { CALL("cuDevicePrimaryCtxRelease_v2"); --live["contexts"]; return result(kOk); }
CUresult cuCtxSetCurrent(CUcontext) { CALL("cuCtxSetCurrent"); return result(kOk); }
CUresult cuCtxSynchronize() {
  CALL("cuCtxSynchronize");
  run_until([] { return !any_pending(); });
  return result(kOk);
}

CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
  CALL("cuMemAlloc_v2");
  REQUIRE(bytes, kInvalidValue);
  *out = take(bytes, Kind::device);
  return result(*out ? kOk : kOutOfMemory);
}
CUresult cuMemFree_v2(CUdeviceptr p) { CALL("cuMemFree_v2"); return result(give_back(p, Kind::device)); }
CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  CALL("cuMemHostAlloc");
  REQUIRE(bytes, kInvalidValue);
  *out = reinterpret_cast<void*>(take(bytes, Kind::pinned));
  return result(*out ? kOk : kOutOfMemory);
}
CUresult cuMemFreeHost(void* p) { CALL("cuMemFreeHost"); return result(give_back(address_of(p), Kind::pinned)); }
CUresult cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
  CALL("cuMemHostRegister_v2");
  REQUIRE(bytes && address_of(p) % 4096 == 0, kInvalidValue);
  REQUIRE(!lies_within(address_of(p), 1, false), kAlreadyRegistered);
  regions[address_of(p)] = {bytes, Kind::registered};
  return result(kOk);
}
CUresult cuMemHostUnregister(void* p) {
  CALL("cuMemHostUnregister");
  const int code = give_back(address_of(p), Kind::registered);
  return result(code ? kNotRegistered : kOk);
}
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* p, unsigned) {
  CALL("cuMemHostGetDevicePointer_v2");
  REQUIRE(lies_within(address_of(p), 1, true), kInvalidValue);
  *out = device_address(address_of(p));
  return result(kOk);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  CALL("cuMemcpyHtoDAsync_v2");
  REQUIRE(lies_within(to, bytes, false), kInvalidValue);
  if (lies_within(address_of(from), bytes, true)) return result(enqueue(stream, {copy(to, address_of(from), bytes), nullptr, nullptr, 0, ms_of_copy(bytes)}));
  // pageable memory is staged before the call returns
  const auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  const auto run = [=] { std::memcpy(reinterpret_cast<void*>(to), staged->data(), bytes); };
  return result(enqueue(stream, {run, nullptr, nullptr, 0, ms_of_copy(bytes)}));
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  CALL("cuMemcpyDtoHAsync_v2");
  REQUIRE(lies_within(from, bytes, false), kInvalidValue);
  return result(enqueue(stream, {copy(address_of(to), from, bytes)}));
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  CALL("cuMemcpyDtoDAsync_v2");
  REQUIRE(lies_within(to, bytes, false) && lies_within(from, bytes, false), kInvalidValue);
  return result(enqueue(stream, {copy(to, from, bytes)}));
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  CALL("cuMemsetD8Async");
  REQUIRE(lies_within(to, bytes, false), kInvalidValue);
  return result(enqueue(stream, {[=] { std::memset(reinterpret_cast<void*>(to), value, bytes); }}));
}

CUresult cuStreamCreate(CUstream* out, unsigned) { CALL("cuStreamCreate"); streams.insert(*out = new CUstream_st), ++live["streams"]; return result(kOk); }
CUresult cuStreamDestroy_v2(CUstream stream) {
  CALL("cuStreamDestroy_v2");
  REQUIRE(streams.count(stream), kInvalidHandle);
  run_until([=] { return stream->queue.empty(); }, stream);
  streams.erase(stream), --live["streams"];
  if (stream->graph) delete stream->graph, --live["captured graphs"];  // a capture that was never ended
  delete stream;
  return result(kOk);
}
CUresult cuStreamSynchronize(CUstream stream) {
  CALL("cuStreamSynchronize");
  REQUIRE(streams.count(stream), kInvalidHandle);
  REQUIRE(!stream->graph, kCaptureUnsupported);
  run_until([=] { return stream->queue.empty(); }, stream);
  return result(kOk);
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  CALL("cuStreamWaitEvent");
  if (!event->recorded) return result(kOk);
  Work work;
  work.wait = event, work.ticket = event->recorded;
  return result(enqueue(stream, work));
}
CUresult cuEventCreate(CUevent* out, unsigned flags) {
  CALL("cuEventCreate");
  *out = new CUevent_st, ++live["events"];
  (*out)->timed = !(flags & 2);
  return result(kOk);
}
CUresult cuEventDestroy_v2(CUevent event) {
  CALL("cuEventDestroy_v2");
  run_until([=] { return event->done >= event->recorded; }, stream_that_records(event, event->recorded));
  delete event, --live["events"];
  return result(kOk);
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  CALL("cuEventRecord");
  Work work;
  work.record = event, work.ticket = ++event->recorded, event->asked = 0;
  return result(enqueue(stream, work));
}
CUresult cuEventQuery(CUevent event) {
  CALL("cuEventQuery");
  run_some();
  // a device gets on while the host asks again and again: whoever only waits that way must not wait for ever
  if (event->done < event->recorded && ++event->asked > kPatience) {
    const uint64_t ticket = event->recorded;
    run_until([=] { return event->done >= ticket; }, stream_that_records(event, ticket));
  }
  return result(event->done >= event->recorded ? kOk : kNotReady);
}
CUresult cuEventSynchronize(CUevent event) {
  CALL("cuEventSynchronize");
  const uint64_t ticket = event->recorded;
  run_until([=] { return event->done >= ticket; }, stream_that_records(event, ticket));
  return result(kOk);
}
CUresult cuEventElapsedTime(float* out, CUevent start, CUevent end) {
  CALL("cuEventElapsedTime");
  REQUIRE(start->timed && end->timed && start->recorded && end->recorded, kInvalidHandle);
  REQUIRE(start->done >= start->recorded && end->done >= end->recorded, kNotReady);
  *out = float(end->at_ms - start->at_ms);
  return result(kOk);
}

// An image names its architecture ("sm_87") and its kernels. Those of a real compiler are taken as they are.
CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  CALL("cuModuleLoadData");
  const auto* bytes = static_cast<const char*>(image);
  REQUIRE(std::memcmp(bytes, "\177ELF", 4) == 0, kInvalidImage);
  const std::string arch = "sm_" + std::to_string(capability);
  if (std::memcmp(bytes + 4, "FAKE", 4) == 0) REQUIRE(std::strncmp(bytes + 8, arch.c_str(), arch.size()) == 0, kNoBinary);
  *out = new CUmod_st{std::string(bytes, 100000)}, ++live["modules"];
  return result(kOk);
}
CUresult cuModuleUnload(CUmodule module) { CALL("cuModuleUnload"); delete module, --live["modules"]; return result(kOk); }
CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  CALL("cuModuleGetFunction");
  const auto found = functions().find(name);
  REQUIRE(found != functions().end() && module->image.find(name) != std::string::npos, kNotFound);
  found->second.most_threads = launch_bounds.at(name);
  found->second.only_reads = std::strcmp(name, "hb_read") == 0;
  *out = &found->second;
  return result(kOk);
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                        CUstream stream, void** arguments, void**) {
  CALL("cuLaunchKernel");
  REQUIRE(gx && gy && gy <= 65535 && gz == 1 && bx && bx <= 1024 && by == 1 && bz == 1, kInvalidValue);
  REQUIRE(bx <= f->most_threads, kTooManyResources);
  const auto held = std::make_shared<std::vector<std::vector<char>>>();  // arguments are copied at launch
  for (size_t i = 0; i < f->sizes.size(); ++i)
    held->emplace_back(static_cast<char*>(arguments[i]), static_cast<char*>(arguments[i]) + f->sizes[i]);
  Work work;
  if (f->only_reads) work.ms = ms_of_read(*static_cast<uint64_t*>(arguments[0]), 16 * size_t(*static_cast<uint32_t*>(arguments[1])));
  work.run = [=] {
    std::vector<void*> pointers;
    for (auto& one : *held) pointers.push_back(one.data());
    launch_size = {gx, gy, bx};
    f->call(pointers.data());
  };
  return result(enqueue(stream, work));
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode) {
  CALL("cuStreamBeginCapture_v2");
  stream->graph = new CUgraph_st, ++live["captured graphs"];
  return result(kOk);
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* out) {
  CALL("cuStreamEndCapture");
  *out = stream->graph, stream->graph = nullptr;
  return result(kOk);
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
  CALL("cuGraphInstantiateWithFlags");
  *out = new CUgraphExec_st{graph->nodes}, ++live["graphs"];
  return result(kOk);
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  CALL("cuGraphLaunch");
  for (const auto& node : exec->nodes)
    if (const int code = enqueue(stream, {node})) return result(code);
  return result(kOk);
}
CUresult cuGraphDestroy(CUgraph graph) { CALL("cuGraphDestroy"); delete graph, --live["captured graphs"]; return result(kOk); }
CUresult cuGraphExecDestroy(CUgraphExec exec) { CALL("cuGraphExecDestroy"); delete exec, --live["graphs"]; return result(kOk); }
CUresult cuGetErrorName(CUresult code, const char** out) {
  static std::string text;
  text = "FAKE_ERROR_" + std::to_string(int(code));
  *out = text.c_str();
  return result(kOk);
}
}
