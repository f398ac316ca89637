#include "route_impl.hpp"

namespace hobbit {

HOBBIT_ROUTE_FUNCTIONS(kRouteAvx512, "avx512");

}  // namespace hobbit
