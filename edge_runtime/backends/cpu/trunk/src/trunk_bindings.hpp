#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

namespace hobbit {

using Floats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;

[[noreturn]] inline void refuse(const std::string& message) { throw nanobind::value_error(message.c_str()); }

void bind_forms(nanobind::module_& m);  // before bind_trunk
void bind_trunk(nanobind::module_& m);

}  // namespace hobbit
