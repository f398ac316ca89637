#include "route_impl.hpp"

namespace hobbit {

HOBBIT_ROUTE_FUNCTIONS(kRouteAvx2, "avx2");

}  // namespace hobbit
