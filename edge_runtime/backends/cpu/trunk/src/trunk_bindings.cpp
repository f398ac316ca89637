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
using Slots = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Addresses = nb::ndarray<const uint64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;


template <class A> void need(const char* name, const A& array, std::initializer_list<size_t> shape) {
  bool fits = array.ndim() == shape.size();
  size_t i = 0;
  for (size_t n : shape) fits = fits && array.shape(i++) == n;
  if (!fits) refuse(std::string(name) + ": another shape was expected");
}

nb::object view(nb::handle owner, float* data, size_t rows, size_t width) {
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, {rows, width}, owner));
}

const float* experts_out(const DenseTrunk& trunk, const Frame& frame, const std::optional<Floats>& moe) {
  if (!moe) return nullptr;
  need("expert_out", *moe, {frame.tokens, trunk.model().hidden});
  return moe->data();
}

void check_frame(const DenseTrunk& trunk, const Frame& frame) {
  const ModelForm& model = trunk.model();
  if (frame.hidden != model.hidden || frame.experts != model.experts) refuse("frame: made for another model");
  if (frame.tokens == 0) refuse("frame: begin was not called");
  if (frame.tokens > trunk.max_tokens())
    refuse("frame: expected at most " + std::to_string(trunk.max_tokens()) + " tokens, got " +
           std::to_string(frame.tokens));
}

void check_states(const MixerForm& form, size_t index, const Frame& frame) {
  if (index >= frame.state_places.size() || frame.state_slot >= frame.state_slots.size())
    refuse("frame: the layer has no states");
  const StatePlace& place = frame.state_places[index];
  if ((form.kernel > 1 && place.conv < 0) || (form.rule != Rule::convolution && place.state < 0))
    refuse("frame: the layer lacks a state");
  if (frame.stops.empty() || frame.stops.back().tokens != frame.tokens) refuse("frame: no slot takes the new states");
}

void check_layer_call(const DenseTrunk& trunk, size_t index, const Frame& frame) {
  check_frame(trunk, frame);
  if (index >= trunk.layers()) refuse("layer: there are " + std::to_string(trunk.layers()));
  const LayerForm& form = trunk.layer(index).form;
  if (form.router_norm && !frame.router_norm) refuse("frame: made without router_x");
  if (form.mixer.rule != Rule::none) check_states(form.mixer, index, frame);
  if (form.heads == 0 && form.latent.heads == 0) return;
  const bool has_values = form.latent.heads == 0;
  if (index >= frame.caches.size() || frame.caches[index].keys == nullptr ||
      (has_values && frame.caches[index].values == nullptr))
    refuse("frame: the layer has no cache");
  if (frame.tokens > frame.slots || frame.start > frame.slots - frame.tokens) refuse("frame: the cache is full");
  if (form.rope >= 0 && (size_t(form.rope) >= frame.cos.size() ||
                         frame.angle_widths[size_t(form.rope)] != form.rotated / 2))
    refuse("frame: made for other rotary embeddings");
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

void bind_frame(nb::module_& m) {
  nb::class_<Frame>(m, "Frame")
      .def(nb::init<size_t, size_t, size_t, bool, const std::vector<size_t>&>(), "most"_a, "hidden"_a, "experts"_a,
           "router_norm"_a, "angles"_a)
      .def_static("bytes_for", &Frame::bytes, "most"_a, "hidden"_a, "experts"_a, "router_norm"_a, "angles"_a)
      .def("release", &Frame::release)
      .def("begin",
           [](Frame& f, size_t tokens, size_t start) {
             if (tokens == 0 || tokens > f.most) refuse("begin: expected 1 to " + std::to_string(f.most) + " tokens");
             f.tokens = tokens, f.start = start;
           },
           "tokens"_a, "start"_a)
      .def("set_caches",
           [](Frame& f, const Addresses& addresses, size_t slots) {
             need("addresses", addresses, {addresses.shape(0), 2});
             f.caches.resize(addresses.shape(0));
             for (size_t i = 0; i < f.caches.size(); ++i)
               f.caches[i] = {reinterpret_cast<float*>(addresses.data()[2 * i]),
                              reinterpret_cast<float*>(addresses.data()[2 * i + 1])};
             f.slots = slots;
           },
           "addresses"_a, "slots"_a)
      .def("set_states",
           [](Frame& f, const Slots& slots, const Places& places) {
             need("places", places, {places.shape(0), 2});
             f.state_slots.clear(), f.state_places.clear(), f.stops.clear();
             for (size_t i = 0; i < slots.shape(0); ++i) f.state_slots.push_back(reinterpret_cast<float*>(slots.data()[i]));
             for (size_t i = 0; i < places.shape(0); ++i)
               f.state_places.push_back({places.data()[2 * i], places.data()[2 * i + 1]});
           },
           "slots"_a, "places"_a)
      .def("set_stops",
           [](Frame& f, size_t slot, const std::vector<std::pair<size_t, size_t>>& stops) {
             const size_t slots = f.state_slots.size();
             size_t last = 0;
             bool fits = slot < slots && !stops.empty();
             for (const auto& [tokens, to] : stops) {
               fits = fits && tokens > last && to < slots && to != slot;
               last = tokens;
             }
             if (!fits) refuse("set_stops: expected other slots of " + std::to_string(slots) + ", and tokens in order");
             f.state_slot = slot, f.stops.clear();
             for (const auto& [tokens, to] : stops) f.stops.push_back({tokens, to});
           },
           "slot"_a, "stops"_a)
      .def("resid", [](nb::handle self) { auto& f = nb::cast<Frame&>(self); return view(self, f.resid, f.most, f.hidden); })
      .def("x", [](nb::handle self) { auto& f = nb::cast<Frame&>(self); return view(self, f.x, f.most, f.hidden); })
      .def("y", [](nb::handle self) { auto& f = nb::cast<Frame&>(self); return view(self, f.y, f.most, f.hidden); })
      .def("router_logits",
           [](nb::handle self) { auto& f = nb::cast<Frame&>(self); return view(self, f.router_logits, f.most, f.experts); })
      .def("router_x",
           [](nb::handle self) {
             auto& f = nb::cast<Frame&>(self);
             return view(self, f.router_x, f.most, f.router_norm ? f.hidden : 0);
           })
      .def("angles", [](nb::handle self) {
        auto& f = nb::cast<Frame&>(self);
        nb::list all;
        for (size_t i = 0; i < f.cos.size(); ++i)
          all.append(nb::make_tuple(view(self, f.cos[i], f.most, f.angle_widths[i]),
                                    view(self, f.sin[i], f.most, f.angle_widths[i])));
        return all;
      });
}

}  // namespace

void bind_trunk(nb::module_& m) {
  bind_forms(m);
  bind_matrix(m);
  bind_frame(m);
  using T = DenseTrunk;
  nb::class_<T>(m, "DenseTrunk")
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
      .def("release_scratch", &T::release_scratch)
      .def("run_layer",
           [](T& t, size_t index, Frame& frame, const std::optional<Floats>& expert_out) {
             check_layer_call(t, index, frame);
             const float* moe = experts_out(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.run_layer(index, frame, moe);
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
             const float* moe = experts_out(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.head(frame, moe, first, count, logits.data());
           },
           "frame"_a, "expert_out"_a.none(), "first"_a, "logits"_a.noconvert())
      .def("expect",
           [](T& t, size_t index, size_t coming, const Frame& frame, const std::optional<Floats>& expert_out,
              const OutFloats& out) {
             check_frame(t, frame);
             if (index < 1 || coming < index || coming >= t.layers() || !t.layer(coming).form.sparse)
               refuse("expect: layer " + std::to_string(coming) + " has no router behind " + std::to_string(index));
             need("out", out, {frame.tokens, t.model().hidden});
             const float* moe = experts_out(t, frame, expert_out);
             nb::gil_scoped_release release;
             t.expect(index, coming, frame, moe, out.data());
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

}  // namespace hobbit
