// Calls that tell a sanitiser about fibers and shared memory; nothing where none is built in.
#pragma once
#include <cstddef>

#if defined(SHIM_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#define TSAN(...) __VA_ARGS__
#else
#define TSAN(...)
#endif

#if defined(SHIM_ASAN)
extern "C" {
void __asan_poison_memory_region(void const volatile* address, size_t size);
void __asan_unpoison_memory_region(void const volatile* address, size_t size);
void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
}
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif
