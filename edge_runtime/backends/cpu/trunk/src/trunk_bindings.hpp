#pragma once
#include <nanobind/nanobind.h>

namespace hobbit {

void bind_forms(nanobind::module_& m);  // before bind_trunk
void bind_trunk(nanobind::module_& m);

}  // namespace hobbit
