// Python's view of the checksum: `crc32c(data, value)` over any contiguous buffer.
#include <nanobind/nanobind.h>

#include "crc32c.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

uint32_t crc(nb::object buffer, uint32_t value) {
  Py_buffer view;
  if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
  uint32_t result;
  {
    nb::gil_scoped_release release;
    result = hobbit::crc32c(static_cast<const uint8_t*>(view.buf), size_t(view.len), value);
  }
  PyBuffer_Release(&view);
  return result;
}

}  // namespace

NB_MODULE(_native, m) { m.def("crc32c", &crc, "data"_a, "value"_a = 0); }
