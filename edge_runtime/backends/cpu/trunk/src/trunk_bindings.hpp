#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <string>

namespace hobbit {

using Floats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;

[[noreturn]] inline void refuse(const std::string& message) { throw nanobind::value_error(message.c_str()); }

// Refuses an array of another shape.
template <class A> void need(const char* name, const A& array, std::initializer_list<size_t> shape) {
  bool fits = array.ndim() == shape.size();
  size_t i = 0;
  for (size_t n : shape) fits = fits && array.shape(i++) == n;
  if (!fits) refuse(std::string(name) + ": another shape was expected");
}

class DenseTrunk;
class Frame;

// Whether the trunk can run over the frame at all, and a layer of it over what the frame has for that layer.
void check_frame(const DenseTrunk& trunk, const Frame& frame);
void check_layer_call(const DenseTrunk& trunk, size_t index, const Frame& frame);

void bind_forms(nanobind::module_& m);  // before bind_trunk
void bind_frame(nanobind::module_& m);
void bind_trunk(nanobind::module_& m);
void bind_token_compute(nanobind::module_& m);

}  // namespace hobbit
