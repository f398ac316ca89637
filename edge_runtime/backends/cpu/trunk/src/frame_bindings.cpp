// Python surface of a frame, and whether a frame fits a layer.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "layer_ports.hpp"
#include "trunk.hpp"
#include "trunk_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hobbit {
namespace {

using Slots = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Addresses = nb::ndarray<const uint64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void check_states(const MixerForm& form, size_t index, const Frame& frame) {
  if (index >= frame.state_places.size() || frame.state_slot >= frame.state_slots.size())
    refuse("frame: the layer has no states");
  const StatePlace& place = frame.state_places[index];
  if ((form.kernel > 1 && place.conv < 0) || (form.rule != Rule::convolution && place.state < 0))
    refuse("frame: the layer lacks a state");
  if (frame.stops.empty() || frame.stops.back().tokens != frame.tokens) refuse("frame: no slot takes the new states");
}

}  // namespace

void check_frame(const DenseTrunk& trunk, const Frame& frame) {
  const ModelForm& model = trunk.model();
  if (frame.hidden != model.hidden || frame.experts != model.experts) refuse("frame: made for another model");
  if (frame.tokens == 0) refuse("frame: begin was not called");
  if (frame.tokens > trunk.max_tokens())
    refuse("frame: expected at most " + std::to_string(trunk.max_tokens()) + " tokens, got " +
           std::to_string(frame.tokens));
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

namespace {

using Class = nb::class_<Frame>;

void bind_making(Class& frame) {
  frame
      .def(nb::init<size_t, size_t, size_t, bool, const std::vector<size_t>&>(), "most"_a, "hidden"_a, "experts"_a,
           "router_norm"_a, "angles"_a)
      .def_static("bytes_for", &Frame::bytes, "most"_a, "hidden"_a, "experts"_a, "router_norm"_a, "angles"_a)
      .def("release", &Frame::release)
      .def("port", [](Frame& f) { return nb::capsule(&f, kFramePort); });
}

// What a chunk is: its tokens, and the caches and states they go through.
void bind_chunk(Class& frame) {
  frame
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
           "slot"_a, "stops"_a);
}

nb::object view(nb::handle owner, float* data, size_t rows, size_t width) {
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, {rows, width}, owner));
}

// Its arrays, as views that keep it alive.
void bind_arrays(Class& frame) {
  frame
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

void bind_frame(nb::module_& m) {
  Class frame(m, "Frame");
  bind_making(frame);
  bind_chunk(frame);
  bind_arrays(frame);
}

}  // namespace hobbit
