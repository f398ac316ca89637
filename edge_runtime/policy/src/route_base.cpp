// The rule at the baseline of the architecture, and which of the units runs.
#include <stdexcept>

#include "route_impl.hpp"

namespace hobbit {

HOBBIT_ROUTE_FUNCTIONS(kRouteBase, "base");

static std::vector<const RouteFunctions*> detect() {
  std::vector<const RouteFunctions*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(&kRouteAvx512);
  if (avx2) found.push_back(&kRouteAvx2);
#endif
  found.push_back(&kRouteBase);
  return found;
}

const std::vector<const RouteFunctions*>& available_route_functions() {
  static const std::vector<const RouteFunctions*> list = detect();
  return list;
}

const RouteFunctions& route_functions(const std::string& name) {
  for (const RouteFunctions* one : available_route_functions())
    if (name == "auto" || name == one->name) return *one;
  throw std::invalid_argument("router: this machine has no instruction set '" + name + "'");
}

}  // namespace hobbit
