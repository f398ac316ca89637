// The kernels' host build, by name.
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
HB_KERNELS(ADD)
}  // namespace

std::map<std::string, CUfunc_st>& functions() {
  static std::map<std::string, CUfunc_st> all;
  return all;
}
// Sizes of the arguments of a kernel, at most 16; returns how many.
extern "C" int fake_argument_sizes(const char* name, size_t* out) {
  const auto& sizes = functions().at(name).sizes;
  for (size_t i = 0; i < sizes.size(); ++i) out[i] = sizes[i];
  return int(sizes.size());
}
