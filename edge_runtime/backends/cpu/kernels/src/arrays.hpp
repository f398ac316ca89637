// Arrays that come from Python: their type, shape and layout are looked at before a pointer is taken.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

namespace hobbit {

namespace nb = nanobind;
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using OutArray = nb::ndarray<nb::device::cpu>;

void bind_experts(nb::module_& m);
void bind_encoder(nb::module_& m);

template <class T> struct TypeName;
template <> struct TypeName<float> { static constexpr const char* value = "float32"; };
template <> struct TypeName<int32_t> { static constexpr const char* value = "int32"; };
template <> struct TypeName<uint64_t> { static constexpr const char* value = "uint64"; };

template <class A> std::string describe(const A& a) {
  const nb::dlpack::dtype t = a.dtype();
  const char* kind = t.code == 0 ? "int" : t.code == 1 ? "uint" : t.code == 2 ? "float" : "other";
  std::string s = std::string(kind) + std::to_string(int(t.bits)) + " [";
  for (size_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + "]";
}

template <class A> bool contiguous(const A& a) {
  if (a.size() == 0) return true;  // strides of an empty array mean nothing
  int64_t expected = 1;
  for (size_t i = a.ndim(); i-- > 0;) {
    if (a.shape(i) != 1 && a.stride(i) != expected) return false;
    expected *= int64_t(a.shape(i));
  }
  return true;
}

// `columns` 0 stands for a one-dimensional array.
template <class T, class A> void check(const char* where, const A& a, size_t columns) {
  const bool shape = columns ? a.ndim() == 2 && a.shape(1) == columns : a.ndim() == 1;
  if (shape && a.dtype() == nb::dtype<T>() && contiguous(a)) return;
  const std::string want = columns ? "[n, " + std::to_string(columns) + "]" : "[n]";
  throw nb::value_error((std::string(where) + ": expected C-contiguous " + TypeName<T>::value + " " + want + ", got " +
                         describe(a) + (contiguous(a) ? "" : " (not contiguous)")).c_str());
}

template <class T> const T* data(const Array& a) { return static_cast<const T*>(a.data()); }

// Whether the codes of a record are 4-bit floats.
inline bool is_fp4(const std::string& codes) {
  if (codes != "linear" && codes != "fp4")
    throw nb::value_error(("codes: expected linear or fp4, got '" + codes + "'").c_str());
  return codes == "fp4";
}

}  // namespace hobbit
