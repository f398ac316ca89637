// Python's view of the checksum, `crc32c(data, value)` over any contiguous buffer, and of spans of time.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "crc32c.hpp"
#include "host_span.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

uint32_t crc(const Bytes& buffer, uint32_t value) {
  nb::gil_scoped_release release;
  return hobbit::crc32c(static_cast<const uint8_t*>(buffer.data()), buffer.nbytes(), value);
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("crc32c", &crc, "data"_a, "value"_a = 0);
  m.attr("HostSpan") = nb::steal(hobbit::make_host_span_type());
  m.attr("Untimed") = nb::steal(hobbit::make_untimed_type());
}
