// Python surface of the native trunk: checks arrays, releases the GIL, forwards.
#include "trunk_bindings.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "trunk.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hobbit {
namespace {

using OutFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const float* data_of(const DenseTrunk& trunk, const Frame& frame, const std::optional<Floats>& expert_out) {
  if (!expert_out) return nullptr;
  need("expert_out", *expert_out, {frame.tokens, trunk.model().hidden});
  return expert_out->data();
}

void bind_matrix(nb::module_& m) {
  nb::class_<DenseMatrix>(m, "DenseMatrix")
      .def(nb::init<size_t, size_t, int, size_t, const std::string&>(), "outputs"_a, "inputs"_a, "bits"_a = 32,
           "block"_a = 0, "isa"_a = "auto")
      .def_static("bytes_for", &DenseMatrix::bytes_for, "outputs"_a, "inputs"_a, "bits"_a, "block"_a)
      .def_prop_ro("nbytes", &DenseMatrix::nbytes)
      .def("apply",
           [](const DenseMatrix& self, const Floats& x, const OutFloats& out) {
             const size_t tokens = x.ndim() ? x.shape(0) : 0;
             need("x", x, {tokens, self.inputs()});
             need("out", out, {tokens, self.outputs()});
             nb::gil_scoped_release release;
             self.apply(x.data(), tokens, out.data());
           },
           "x"_a, "out"_a.noconvert())
      .def("put_floats",
           [](DenseMatrix& self, size_t first, const Floats& rows) {
             need("rows", rows, {rows.ndim() ? rows.shape(0) : 0, self.outputs()});
             nb::gil_scoped_release release;
             self.put_floats(first, rows.shape(0), rows.data());
           },
           "first"_a, "rows"_a)
      .def("put_codes",
           [](DenseMatrix& self, size_t first, const Bytes& codes, const Floats& scales) {
             const size_t rows = codes.ndim() ? codes.shape(0) : 0;
             need("codes", codes, {rows, self.blocks(), self.block() * size_t(self.bits()) / 8});
             need("scales", scales, {rows, self.blocks()});
             nb::gil_scoped_release release;
             self.put_codes(first, rows, codes.data(), scales.data());
           },
           "first"_a, "codes"_a, "scales"_a);
}

using T = DenseTrunk;
using Class = nb::class_<T>;

void bind_making(Class& trunk) {
  trunk
      .def("__init__",
           [](T* self, const ModelForm& model, const std::vector<const Layer*>& layers, std::shared_ptr<Team> team,
              const std::string& isa, size_t max_tokens) {
             if (max_tokens == 0 || max_tokens > (1u << 20)) refuse("max_tokens: expected 1 to 1048576");
             std::vector<Layer> all;
             for (const Layer* layer : layers) all.push_back(*layer);
             new (self) T(model, std::move(all), std::move(team), isa, max_tokens);
           },
           "model"_a, "layers"_a, "team"_a, "isa"_a = "auto", "max_tokens"_a = 1)
      .def_static("scratch_bytes_for",
                  [](const ModelForm& model, const std::vector<const Layer*>& layers, size_t threads, size_t tokens) {
                    std::vector<Layer> all;
                    for (const Layer* layer : layers) all.push_back(*layer);
                    return T::scratch_bytes_for(model, all, threads, tokens);
                  },
                  "model"_a, "layers"_a, "threads"_a, "max_tokens"_a)
      .def_prop_ro("scratch_bytes", &T::scratch_bytes)
      .def("release_scratch", &T::release_scratch);
}

void bind_layers(Class& trunk) {
  trunk
      .def("run_layer",
           [](T& t, size_t index, Frame& frame, const std::optional<Floats>& expert_out) {
             check_layer_call(t, index, frame);
             const float* joins = data_of(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.run_layer(index, frame, joins);
           },
           "layer"_a, "frame"_a, "expert_out"_a.none())
      .def("run_shared",
           [](T& t, size_t index, Frame& frame) {
             check_frame(t, frame);
             if (index >= t.layers() || t.layer(index).form.shared.width == 0) refuse("layer: no shared expert there");
             nb::gil_scoped_release release;
             t.run_shared(index, frame);
           },
           "layer"_a, "frame"_a)
      .def("head",
           [](T& t, Frame& frame, const std::optional<Floats>& expert_out, size_t first, const OutFloats& logits) {
             check_frame(t, frame);
             const size_t count = logits.ndim() ? logits.shape(0) : 0;
             need("logits", logits, {count, t.vocabulary()});
             if (count > frame.tokens || first > frame.tokens - count) refuse("head: rows beyond the chunk");
             const float* joins = data_of(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.head(frame, joins, first, count, logits.data());
           },
           "frame"_a, "expert_out"_a.none(), "first"_a, "logits"_a.noconvert());
}

// What coming layers' routers would choose by.
void bind_outlook(Class& trunk) {
  trunk
      .def("expect",
           [](T& t, size_t index, size_t coming, const Frame& frame, const std::optional<Floats>& expert_out,
              const OutFloats& out) {
             check_frame(t, frame);
             if (coming < index || coming >= t.layers() || !t.layer(coming).form.sparse)
               refuse("expect: layer " + std::to_string(coming) + " has no router from layer " + std::to_string(index) + " on");
             need("out", out, {frame.tokens, t.model().hidden});
             const float* joins = data_of(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.expect(index, coming, frame, joins, out.data());
           },
           "layer"_a, "coming"_a, "frame"_a, "expert_out"_a.none(), "out"_a.noconvert())
      .def("look_ahead",
           [](T& t, const Floats& x, const Ints& layers, const OutFloats& out) {
             const size_t tokens = x.ndim() ? x.shape(0) : 0;
             need("x", x, {tokens, t.model().hidden});
             need("out", out, {layers.shape(0), tokens, t.model().experts});
             for (size_t i = 0; i < layers.shape(0); ++i) {
               const int32_t layer = layers.data()[i];
               if (layer < 0 || size_t(layer) >= t.layers() || !t.layer(size_t(layer)).form.sparse)
                 refuse("look_ahead: layer " + std::to_string(layer) + " has no router");
             }
             nb::gil_scoped_release release;
             t.look_ahead(x.data(), tokens, layers.data(), layers.shape(0), out.data());
           },
           "x"_a, "layers"_a, "out"_a.noconvert());
}

}  // namespace

void bind_trunk(nb::module_& m) {
  bind_forms(m);
  bind_matrix(m);
  bind_frame(m);
  Class trunk(m, "DenseTrunk");
  bind_making(trunk);
  bind_layers(trunk);
  bind_outlook(trunk);
}

}  // namespace hobbit
