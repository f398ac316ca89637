// What the kernels need of a GPU that C++ does not have. Few functions, each run by hb_self_test on tables of inputs.
// With HB_HOST the same names come from a header of the tests, which runs the threads on a CPU.
#pragma once

#if defined(HB_HOST)
#include "cuda_on_host.hpp"
#else
// NVRTC has no <cstdint>
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define HB_DEV __device__ __forceinline__
// `blocks`: how many should fit a multiprocessor, which bounds the registers.
#define HB_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define HB_SHARED(type, name, dims) __shared__ type name dims

// Weights are read once: they pass by the L1 cache. The record must not change while a kernel runs.
HB_DEV uint4 load16(const u8* p) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}
HB_DEV uint2 load8(const u8* p) {
  uint2 r;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
  return r;
}
HB_DEV u32 load4(const u8* p) {
  u32 r;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(p));
  return r;
}

// Four of the eight bytes of a (0..3) and b (4..7), by the nibbles of a selector: the low three bits say which; with the
// fourth, all bits of a byte become its sign. (__byte_perm takes three bits, and costs an instruction to clear the fourth.)
HB_DEV u32 permute(u32 a, u32 b, u32 selector) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// c + sum over four bytes: unsigned of a times signed of b. (__dp4a has no form of mixed signs.)
HB_DEV i32 dot4_us(u32 a, i32 b, i32 c) {
  i32 d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Bits of `a` where `mask` has ones, of `b` elsewhere. (Compilers make two instructions of the C++ for it.)
HB_DEV u32 select_bits(u32 mask, u32 a, u32 b) {
  u32 d;
  asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(d) : "r"(mask), "r"(a), "r"(b));
  return d;
}

// d[16, 8] += a[16, 32] b[32, 8] of signed bytes by one warp; fragments as in the PTX ISA, mma.m16n8k32.
HB_DEV void mma_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

constexpr u32 kWarp = 32;
constexpr u32 kAllLanes = 0xffffffffu;

// The number of a thread's warp. The shuffle tells the compiler that it is the same in all lanes; without it every warp
// function behind a branch on it becomes a call.
HB_DEV u32 warp_index() { return __shfl_sync(kAllLanes, threadIdx.x / kWarp, 0); }

HB_DEV u32 word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// The sum over a warp, the same bits in every lane.
HB_DEV float sum_of_warp(float v) {
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) v += __shfl_xor_sync(kAllLanes, v, mask);
  return v;
}
