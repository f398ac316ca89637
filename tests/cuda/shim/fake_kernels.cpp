// The host build of some of the kernels, by name: -DFAKE_UNIT=HB_EXPERT_KERNELS, or another list of entries.cuh.
#include "fake_cuda.hpp"
// the kernels' own names must not meet those of the driver's interface
#include <utility>

#include "hobbit.cu"
#include "entries.cuh"

namespace {
template <class... A, size_t... I>
void call_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  launch_on_host({launch_size.grid_x, launch_size.grid_y, 1}, launch_size.threads,
                 [&] { kernel(*static_cast<std::decay_t<A>*>(arguments[I])...); });
}
template <class... A> bool add(const char* name, void (*kernel)(A...)) {
  functions()[name] = {{sizeof(std::decay_t<A>)...},
                       [kernel](void** arguments) { call_with(kernel, arguments, std::index_sequence_for<A...>()); }};
  return true;
}
#define ADD(name) const bool name##_added = add(#name, name);
FAKE_UNIT(ADD)
}  // namespace
