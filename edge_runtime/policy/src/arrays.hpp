// Arrays as Python hands them over, and what is bound in a file of its own.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace hobbit {

template <typename T, int Dims>
using Array = nanobind::ndarray<T, nanobind::ndim<Dims>, nanobind::c_contig, nanobind::device::cpu>;

void bind_router(nanobind::module_& m);
void bind_deciders(nanobind::module_& m);

}  // namespace hobbit
