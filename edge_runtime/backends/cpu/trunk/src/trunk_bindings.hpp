#pragma once
#include <nanobind/nanobind.h>

namespace hobbit {

void bind_trunk(nanobind::module_& m);

}  // namespace hobbit
