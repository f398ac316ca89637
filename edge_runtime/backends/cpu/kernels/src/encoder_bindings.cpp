// Python surface of the record encoder: checks arrays, releases the GIL, forwards.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "encoder.hpp"

using namespace nanobind::literals;

namespace hobbit {
namespace {

Source source(const std::string& dtype, const Array& rows) {
  const nb::dlpack::dtype got = rows.dtype();
  if (dtype == "f32" && got == nb::dtype<float>()) return Source::f32;
  if (dtype == "bf16" && got == nb::dtype<uint16_t>()) return Source::bf16;
  if (dtype == "f16" && got.code == 2 && got.bits == 16) return Source::f16;
  throw nb::value_error(("add_rows: expected dtype 'f32' with float32, 'f16' with float16 or 'bf16' with uint16 rows, "
                         "got '" + dtype + "' with " + describe(rows)).c_str());
}

void add_bias(ExpertEncoder& e, int matrix, const Array& values) {
  check<float>("add_bias", values, 0);
  e.add_bias(matrix, data<float>(values), values.shape(0));
}

void add_rows(ExpertEncoder& e, int matrix, int64_t row_start, const Array& rows, const std::string& dtype) {
  const Source from = source(dtype, rows);
  if (matrix < 0 || matrix > 2) throw nb::value_error("add_rows: matrix must be 0 (gate), 1 (up) or 2 (down)");
  if (row_start < 0) throw nb::value_error("add_rows: row_start must not be negative");
  const size_t cols = e.layout().cols(matrix);
  if (rows.ndim() != 2 || rows.shape(1) != cols || !contiguous(rows))
    throw nb::value_error(("add_rows: expected C-contiguous [n, " + std::to_string(cols) + "], got " +
                           describe(rows)).c_str());
  const size_t count = rows.shape(0);
  nb::gil_scoped_release release;
  e.add_rows(matrix, size_t(row_start), rows.data(), count, from);
}

nb::object segment(nb::handle self, int i, bool draft = false) {
  const auto& e = nb::cast<const ExpertEncoder&>(self);
  const bool want_bf16 = i == -1;
  if (!draft && !e.finished()) throw nb::value_error("segment: expected finish() before segment()");
  if (i < -1 || i >= e.num_segments() || (want_bf16 && e.bf16().empty()))
    throw nb::value_error(("segment: expected 0.." + std::to_string(e.num_segments() - 1) +
                           (e.bf16().empty() ? " (bf16 was not asked for)" : " or -1 for bf16") + ", got " +
                           std::to_string(i)).c_str());
  const std::vector<uint8_t>& bytes = want_bf16 ? e.bf16() : e.segment(i);
  return nb::cast(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(bytes.data(), {bytes.size()}, self));
}

}  // namespace

void bind_encoder(nb::module_& m) {
  using E = ExpertEncoder;
  nb::class_<E>(m, "ExpertEncoder")
      .def("__init__",
           [](E* self, int layer, int expert, int64_t hidden, int64_t intermediate, int num_segments, bool bf16,
              int threads, const std::string& isa, bool gated, bool bias, const std::string& codes) {
             const auto size = [](int64_t v) { return v < 0 ? size_t(0) : size_t(v); };
             new (self) E(layer, expert, {size(hidden), size(intermediate), gated, bias, is_fp4(codes)}, num_segments, bf16,
                          threads, isa);
           },
           "layer"_a, "expert"_a, "hidden"_a, "intermediate"_a, "num_segments"_a, "bf16"_a = false, "threads"_a = 1,
           "isa"_a = "auto", nb::kw_only(), "gated"_a = true, "bias"_a = false, "codes"_a = "linear")
      .def("add_rows", &add_rows, "matrix"_a, "row_start"_a, "rows"_a, "dtype"_a)
      .def("add_bias", &add_bias, "matrix"_a, "values"_a)
      .def("finish", &E::finish)
      .def("segment", [](nb::handle self, int i) { return segment(self, i); }, "i"_a)
      .def("draft", [](nb::handle self) { return segment(self, 0, true); })
      .def("bf16", [](nb::handle self) { return segment(self, -1); })
      .def("errors", &E::errors)
      .def("reset", &E::reset, "layer"_a, "expert"_a);
}

}  // namespace hobbit
