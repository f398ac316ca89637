// The types of the driver's interface as far as the fake library has them. Builds with -DWITH_CUDA_H take NVIDIA's header
// instead, where it is installed: then a compiler has checked every signature and every number below.
#pragma once
#if defined(WITH_CUDA_H)
#include <cuda.h>
#undef cuEventElapsedTime  // its newer form came with CUDA 13; drivers keep this one
#define CHECK_NUMBER(name, number) static_assert(int(name) == number, #name)
#else
#include <cstddef>

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
typedef struct CUevent_st* CUevent;
typedef struct CUgraph_st* CUgraph;
typedef struct CUgraphExec_st* CUgraphExec;
typedef unsigned long long cuuint64_t;
#define CUDA_VERSION 12060
enum CUresult : int;
enum CUdevice_attribute : int;
enum CUfunction_attribute : int;
enum CUstreamCaptureMode : int;
#define CHECK_NUMBER(name, number) constexpr int name##_number = number
#endif
