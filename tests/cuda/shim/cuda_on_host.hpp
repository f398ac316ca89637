// What the kernels' source needs to be host C++: types, intrinsics, and calls into fibers.cpp, which runs the threads.
// Nothing else meets the kernels, so a sanitiser that instruments their unit sees the kernels' accesses only.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;

#define HB_DEV inline
#if !defined(HB_KERNEL)  // build.py reads the bounds with one of its own
#define HB_KERNEL(threads, blocks) static inline void
#endif
#define __align__(n) alignas(n)

struct uint2 { u32 x, y; };
struct uint4 { u32 x, y, z, w; };
struct alignas(16) int4 { i32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct Dim3 { u32 x = 1, y = 1, z = 1; };

extern "C" {
extern Dim3 shim_block_idx, shim_block_dim, shim_grid_dim;
u32 shim_thread();
u32 shim_shuffle(u32 mask, u32 value, u32 source_lane);
void shim_syncwarp(u32 mask);
void shim_syncthreads();
void shim_note_load(const void* p, u32 bytes);  // checked for alignment, counted where somebody watches
void shim_mma_s8(i32* d, const u32* a, const u32* b);
void* shim_shared(u32 id, u32 bytes);
void shim_launch(Dim3 grid, u32 threads, void (*body)(void*), void* argument);
}

struct ShimThread {
  struct { operator u32() const { return shim_thread(); } } x;
};
static const ShimThread threadIdx{};
#define blockIdx shim_block_idx
#define blockDim shim_block_dim
#define gridDim shim_grid_dim

// Each array of a kernel has an id, and one copy a block.
#define HB_SHARED(type, name, dims)  \
  using name##_array = type dims;    \
  name##_array& name = *static_cast<name##_array*>(shim_shared(__COUNTER__, sizeof(name##_array)))

template <class To, class From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T> T __shfl_sync(u32 mask, T value, u32 lane) {
  return bits_as<T>(shim_shuffle(mask, bits_as<u32>(value), lane & 31u));
}
template <class T> T __shfl_xor_sync(u32 mask, T value, u32 lanes) {
  return __shfl_sync(mask, value, (shim_thread() & 31u) ^ lanes);
}
template <class T> T __shfl_down_sync(u32 mask, T value, u32 by) {
  const u32 lane = shim_thread() & 31u;
  return __shfl_sync(mask, value, lane + by > 31u ? lane : lane + by);
}
inline void __syncthreads() { shim_syncthreads(); }
inline void __syncwarp(u32 mask = 0xffffffffu) { shim_syncwarp(mask); }

inline i32 __dp4a(i32 a, i32 b, i32 c) {
  for (int i = 0; i < 4; ++i) c += i32(int8_t(a >> 8 * i)) * i32(int8_t(b >> 8 * i));
  return c;
}
inline i32 dot4_us(u32 a, i32 b, i32 c) {
  for (int i = 0; i < 4; ++i) c += i32(u8(a >> 8 * i)) * i32(int8_t(b >> 8 * i));
  return c;
}
inline u32 permute(u32 a, u32 b, u32 selector) {
  const u64 bytes = u64(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 s = selector >> 4 * i & 15u, byte = u32(bytes >> 8 * (s & 7u)) & 255u;
    result |= (s & 8u ? (byte & 128u ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}
inline u32 select_bits(u32 mask, u32 a, u32 b) { return (a & mask) | (b & ~mask); }
inline float __int_as_float(i32 v) { return bits_as<float>(v); }
inline i32 __float_as_int(float v) { return bits_as<i32>(v); }
inline i32 __float2int_rn(float v) {  // saturates; NaN gives 0
  if (v != v) return 0;
  const double r = std::nearbyint(double(v));
  return r >= 2147483647.0 ? 2147483647 : r <= -2147483648.0 ? -2147483647 - 1 : i32(r);
}
inline __attribute__((always_inline)) uint4 load16(const u8* p) {
  uint4 r;
  shim_note_load(p, 16);
  std::memcpy(&r, p, 16);
  return r;
}
inline __attribute__((always_inline)) uint2 load8(const u8* p) {
  uint2 r;
  shim_note_load(p, 8);
  std::memcpy(&r, p, 8);
  return r;
}
inline __attribute__((always_inline)) u32 load4(const u8* p) {
  u32 r;
  shim_note_load(p, 4);
  std::memcpy(&r, p, 4);
  return r;
}
inline void mma_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { shim_mma_s8(d, a, b); }

template <class Body> void launch_on_host(Dim3 grid, u32 threads, Body body) {
  shim_launch(grid, threads, [](void* p) { (*static_cast<Body*>(p))(); }, &body);
}
