// Runs a CUDA launch on the CPU: one fiber a CUDA thread, switched at barriers and warp collectives only.
// - The next thread, and the order of blocks, come from a seeded generator: code that relies on an order fails.
// - Shared memory starts as 0xFF bytes (NaN, -1), at a fresh address in every block.
// - Differing masks, a lane missing from a collective, and a barrier not all threads reach abort with a message.
// - With SHIM_TSAN each CUDA thread is a fiber of ThreadSanitizer. Barriers and __syncwarp order memory, shuffles do not,
//   as CUDA says; so every race is reported, whatever order ran. What one barrier orders has a token of its own: a thread
//   that goes on late must not be ordered behind others that wait at the next one already.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_on_host.hpp"
#include "loads.hpp"
#include "sanitizers.hpp"

#undef blockIdx
#undef blockDim
#undef gridDim

Dim3 shim_block_idx, shim_block_dim, shim_grid_dim;

namespace {
constexpr size_t kStack = 64 << 10;
constexpr size_t kArena = size_t(4) << 30;  // of a launch's shared arrays: address space only
constexpr size_t kMostFibers = 6000;        // of a launch; TSan keeps some 8000

enum class State { ready, collective, barrier, done };
struct Thread {
  ucontext_t context;
  jmp_buf at;
  bool started = false;
  char* stack = nullptr;
  State state = State::ready;
  u32 value = 0, mask = 0;
  u32 a[4], b[2];  // fragments brought to an mma
  void* fake_stack = nullptr;
  TSAN(void* fiber = nullptr; u32 barriers = 0, warp_barriers = 0;)  // barriers passed
};
std::vector<Thread> threads;
std::vector<u8*> shared;
u8 *arena = nullptr, *arena_next = nullptr;
u32 warp_values[64][32];
#if defined(SHIM_TSAN) || defined(SHIM_ASAN)
ucontext_t scheduler;
#else
jmp_buf scheduler_at;
#endif
u32 current = 0;
u64 generator = 1;
void (*body)(void*);
void* argument;
TSAN(void* scheduler_fiber; char grid_start, grid_end, block_start, block_tokens[2], warp_tokens[64][2];
     struct Fiber { void* fiber; char* stack; };
     std::vector<Fiber> fibers; size_t fibers_used = 0;)  // those of one launch are used again by the next
ASAN(const void* main_bottom; size_t main_size; void* main_fake;)

u64 next_random() {
  generator ^= generator << 13, generator ^= generator >> 7, generator ^= generator << 17;
  return generator;
}
template <class T> void shuffle(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[next_random() % i]);
}
[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "shim: %s (block %u,%u thread %u)\n", what, shim_block_idx.x, shim_block_idx.y, current);
  std::abort();
}
u8* pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) std::perror("shim: mmap"), std::abort();
  return static_cast<u8*>(p);
}

// From a thread back to the scheduler. Sanitisers know of swapcontext; otherwise jumps spare its system calls.
void leave() {
  Thread& me = threads[current];
#if defined(SHIM_TSAN) || defined(SHIM_ASAN)
  TSAN(__tsan_switch_to_fiber(scheduler_fiber, 1);)  // 1: switching orders nothing
  ASAN(__sanitizer_start_switch_fiber(me.state == State::done ? nullptr : &me.fake_stack, main_bottom, main_size);)
  swapcontext(&me.context, &scheduler);
  ASAN(__sanitizer_finish_switch_fiber(me.fake_stack, &main_bottom, &main_size);)
#else
  if (_setjmp(me.at) == 0) _longjmp(scheduler_at, 1);
#endif
}
void enter() {
  ASAN(__sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);)
  for (;;) {
    body(argument);
    threads[current].state = State::done;
    TSAN(__tsan_release(&grid_end);)
    leave();  // where the fiber is used again, the next block starts here
  }
}
#if !defined(SHIM_TSAN) && !defined(SHIM_ASAN)
void jump_into(Thread& t, bool first) {
  if (_setjmp(scheduler_at) != 0) return;
  if (first) setcontext(&t.context);
  _longjmp(t.at, 1);
}
#endif
void resume(u32 index) {
  Thread& t = threads[current = index];
  const bool first = !t.started;
  if (first) {
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack;
    t.context.uc_stack.ss_size = kStack;
    t.context.uc_link = nullptr;
    makecontext(&t.context, enter, 0);
    t.started = true;
  }
#if defined(SHIM_TSAN) || defined(SHIM_ASAN)
  TSAN(__tsan_switch_to_fiber(t.fiber, 1); if (first) __tsan_acquire(&grid_start), __tsan_acquire(&block_start);)
  ASAN(__sanitizer_start_switch_fiber(&main_fake, t.stack, kStack);)
  swapcontext(&scheduler, &t.context);
  ASAN(__sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);)
#else
  jump_into(t, first);
#endif
}

void collective(u32 mask, u32 value) {
  if (!(mask >> (current & 31u) & 1u)) refuse("a lane outside its own mask");
  Thread& me = threads[current];
  me.state = State::collective, me.mask = mask, me.value = value;
  leave();
}
void release_warps() {
  for (size_t first = 0; first < threads.size(); first += 32) {
    const auto begin = threads.begin() + long(first), end = threads.begin() + long(std::min(threads.size(), first + 32));
    u32 arrived = 0, mask = 0;
    for (auto t = begin; t != end; ++t) {
      if (t->state != State::collective) continue;
      if (mask && t->mask != mask) refuse("lanes of one warp wait with different masks");
      arrived |= 1u << (t - begin), mask = t->mask;
    }
    if (!arrived || arrived != mask) continue;
    for (auto t = begin; t != end; ++t)
      if (t->state == State::collective) warp_values[first / 32][t - begin] = t->value, t->state = State::ready;
  }
}
// Lets waiting threads go on; false when all are done.
bool release() {
  release_warps();
  size_t done = 0, waiting = 0, ready = 0;
  for (const Thread& t : threads)
    done += t.state == State::done, waiting += t.state == State::barrier, ready += t.state == State::ready;
  if (ready) return true;
  if (done == threads.size()) return false;
  if (done + waiting != threads.size()) refuse("deadlock: a collective or barrier that not all threads reach");
  for (Thread& t : threads)
    if (t.state == State::barrier) t.state = State::ready;
  return true;
}

TSAN(Fiber next_fiber() {
  if (fibers_used == kMostFibers) refuse("a launch of more threads than TSan can tell apart");
  if (fibers_used == fibers.size()) fibers.push_back({__tsan_create_fiber(0), reinterpret_cast<char*>(pages(kStack))});
  return fibers[fibers_used++];
})

void run_block() {
  shared.clear();
#if defined(SHIM_TSAN)  // stacks and fibers are new in every block of a launch: used again they would hide races between blocks
  scheduler_fiber = __tsan_get_current_fiber();
  for (Thread& t : threads) {
    const Fiber fiber = next_fiber();
    t.fiber = fiber.fiber, t.stack = fiber.stack, t.started = false, t.barriers = t.warp_barriers = 0;
  }
  __tsan_release(&block_start);
#endif
  for (Thread& t : threads) t.state = State::ready;
  std::vector<u32> ready;
  do {
    ready.clear();
    for (u32 i = 0; i < threads.size(); ++i)
      if (threads[i].state == State::ready) ready.push_back(i);
    shuffle(ready);
    for (u32 i : ready) resume(i);
  } while (release());
  finish_block_loads();
}
}  // namespace

u32 shim_thread() { return current; }
u32 shim_shuffle(u32 mask, u32 value, u32 source) {
  collective(mask, value);
  if (!(mask >> source & 1u)) refuse("shuffle from a lane outside the mask");
  return warp_values[current >> 5][source];
}
void shim_syncwarp(u32 mask) {
  TSAN(char* token = &warp_tokens[current >> 5][threads[current].warp_barriers++ & 1u]; __tsan_release(token);)
  collective(mask, 0);
  TSAN(__tsan_acquire(token);)
}
void shim_syncthreads() {
  threads[current].state = State::barrier;
  TSAN(char* token = &block_tokens[threads[current].barriers++ & 1u]; __tsan_release(token);)
  leave();
  TSAN(__tsan_acquire(token);)
}
void* shim_shared(u32 id, u32 bytes) {
  if (shared.size() <= id) shared.resize(id + 1, nullptr);
  if (!shared[id]) {
    shared[id] = arena_next;
    ASAN(__asan_poison_memory_region(arena_next + bytes, 128);)  // what lies behind the array
    arena_next += (bytes + 255u) / 128u * 128u;
    volatile u8* poisoned = shared[id];  // else a memset, which TSan would take for the kernel's
    for (u32 i = 0; i < bytes; ++i) poisoned[i] = 0xFF;
  }
  return shared[id];
}
void shim_note_load(const void* p, u32 bytes) {
  const u64 at = reinterpret_cast<u64>(p);
  if (at % bytes) refuse("misaligned load");
  note_load(at, bytes, __builtin_return_address(0), current);
}
// PTX ISA, mma.m16n8k32 of .s8: A [16, 32] by rows, B [32, 8] by columns, D [16, 8].
void shim_mma_s8(i32* d, const u32* a, const u32* b) {
  Thread& me = threads[current];
  std::copy_n(a, 4, me.a), std::copy_n(b, 2, me.b);
  collective(0xffffffffu, 0);  // every lane has brought its fragments
  const Thread* warp = &threads[current & ~31u];
  const u32 g = current >> 2 & 7u, t = current & 3u;
  for (u32 i = 0; i < 4; ++i) {
    const u32 upper = i >> 1, column = 2 * t + (i & 1u);
    for (u32 word = 0; word < 8; ++word) {
      const u32 of_a = warp[4 * g + word % 4].a[upper + 2 * (word / 4)], of_b = warp[4 * column + word % 4].b[word / 4];
      d[i] = __dp4a(i32(of_a), i32(of_b), d[i]);
    }
  }
  collective(0xffffffffu, 0);  // nobody brings new ones before all have read
}
void shim_launch(Dim3 grid, u32 count, void (*function)(void*), void* its_argument) {
  body = function, argument = its_argument;
  shim_grid_dim = grid, shim_block_dim = {count, 1, 1};
  threads.reserve(1024);  // a context must not move
#if defined(SHIM_TSAN)
  threads.resize(count);
#else
  for (; threads.size() > count; threads.pop_back()) std::free(threads.back().stack);
  while (threads.size() < count) threads.emplace_back().stack = static_cast<char*>(std::malloc(kStack));
#endif
  std::vector<u32> order(size_t(grid.x) * grid.y);
  for (size_t i = 0; i < order.size(); ++i) order[i] = u32(i);
  shuffle(order);
#if defined(SHIM_TSAN)
  if (!arena) arena = pages(kArena);
  arena_next = arena, fibers_used = 0;
  __tsan_release(&grid_start);
#else
  arena = arena_next = pages(kArena);
#endif
  for (u32 block : order) {
    shim_block_idx = {block % grid.x, block / grid.x, 0};
    run_block();
  }
#if defined(SHIM_TSAN)
  __tsan_acquire(&grid_end);
#else
  ASAN(__asan_unpoison_memory_region(arena, size_t(arena_next - arena) + 256);)
  munmap(arena, kArena);
#endif
}
extern "C" void shim_seed(u64 seed) { generator = (seed + 1) * 0x9E3779B97F4A7C15ull | 1; }
