// Python surface of what a layer computes, and of its weights.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "layer.hpp"
#include "trunk_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hobbit {
namespace {

void bind_mlp_form(nb::module_& m) {
  nb::class_<MlpForm>(m, "MlpForm")
      .def(nb::init<>())
      .def_rw("width", &MlpForm::width)
      .def_rw("gated", &MlpForm::gated)
      .def_prop_rw("activation", [](const MlpForm& f) { return int(f.activation); },
                   [](MlpForm& f, int v) {
                     if (v < 0 || v >= kActivations) refuse("activation: expected 0, 1 or 2");
                     f.activation = Activation(v);
                   });
}

void bind_mixer_form(nb::module_& m) {
  nb::class_<MixerForm>(m, "MixerForm")
      .def(nb::init<>())
      .def_rw("key_heads", &MixerForm::key_heads)
      .def_rw("value_heads", &MixerForm::value_heads)
      .def_rw("key_dim", &MixerForm::key_dim)
      .def_rw("value_dim", &MixerForm::value_dim)
      .def_rw("kernel", &MixerForm::kernel)
      .def_prop_rw("rule", [](const MixerForm& f) { return int(f.rule); },
                   [](MixerForm& f, int v) {
                     if (v < 0 || v >= kRules) refuse("rule: expected 0 to " + std::to_string(kRules - 1));
                     f.rule = Rule(v);
                   });
}

void bind_latent_form(nb::module_& m) {
  nb::class_<LatentForm>(m, "LatentForm")
      .def(nb::init<>())
      .def_rw("heads", &LatentForm::heads)
      .def_rw("query_rank", &LatentForm::query_rank)
      .def_rw("kv_rank", &LatentForm::kv_rank)
      .def_rw("nope_dim", &LatentForm::nope_dim)
      .def_rw("rope_dim", &LatentForm::rope_dim)
      .def_rw("value_dim", &LatentForm::value_dim)
      .def_rw("eps", &LatentForm::eps);
}

void bind_layer_form(nb::module_& m) {
  nb::class_<LayerForm>(m, "LayerForm")
      .def(nb::init<>())
      .def_rw("joins", &LayerForm::joins)
      .def_rw("joins_parallel", &LayerForm::joins_parallel)
      .def_rw("heads", &LayerForm::heads)
      .def_rw("kv_heads", &LayerForm::kv_heads)
      .def_rw("head_dim", &LayerForm::head_dim)
      .def_rw("rope", &LayerForm::rope)
      .def_rw("rotated", &LayerForm::rotated)
      .def_rw("rope_pairs", &LayerForm::rope_pairs)
      .def_rw("norm_behind_rope", &LayerForm::norm_behind_rope)
      .def_rw("output_gate", &LayerForm::output_gate)
      .def_rw("shared_kv", &LayerForm::shared_kv)
      .def_rw("value_norm", &LayerForm::value_norm)
      .def_rw("window", &LayerForm::window)
      .def_rw("score_scale", &LayerForm::score_scale)
      .def_rw("clip", &LayerForm::clip)
      .def_rw("sparse", &LayerForm::sparse)
      .def_rw("router_norm", &LayerForm::router_norm)
      .def_rw("shared_parallel", &LayerForm::shared_parallel)
      .def_rw("mixer", &LayerForm::mixer)
      .def_rw("latent", &LayerForm::latent)
      .def_rw("dense", &LayerForm::dense)
      .def_rw("shared", &LayerForm::shared);
}

void bind_model_form(nb::module_& m) {
  nb::class_<ModelForm>(m, "ModelForm")
      .def(nb::init<>())
      .def_rw("hidden", &ModelForm::hidden)
      .def_rw("experts", &ModelForm::experts)
      .def_rw("eps", &ModelForm::eps)
      .def_rw("residual_scale", &ModelForm::residual_scale)
      .def_rw("logit_scale", &ModelForm::logit_scale)
      .def_rw("softcap", &ModelForm::softcap)
      .def_rw("centred", &ModelForm::centred);
}

void bind_layer(nb::module_& m) {
  nb::class_<Layer>(m, "Layer")
      .def("__init__", [](Layer* self, const LayerForm& form) { new (self) Layer{form, {}, {}, {}, {}}; }, "form"_a)
      .def("put_vector",
           [](Layer& l, const std::string& name, const Floats& values) {
             l.vectors[vector_named(name)].assign(values.data(), values.data() + values.size());
           },
           "name"_a, "values"_a)
      .def("put_matrix",
           [](Layer& l, const std::string& name, std::shared_ptr<DenseMatrix> matrix) {
             l.matrices[product_named(name)] = std::move(matrix);
           },
           "name"_a, "matrix"_a)
      .def("put_heads",
           [](Layer& l, const std::string& name, const std::vector<std::shared_ptr<DenseMatrix>>& matrices) {
             if (name != "key_up" && name != "value_up") refuse("put_heads: expected key_up or value_up");
             (name == "key_up" ? l.key_up : l.value_up).assign(matrices.begin(), matrices.end());
           },
           "name"_a, "matrices"_a);
}

}  // namespace

void bind_forms(nb::module_& m) {
  bind_mlp_form(m);
  bind_mixer_form(m);
  bind_latent_form(m);
  bind_layer_form(m);  // has the three above
  bind_model_form(m);
  bind_layer(m);
}

}  // namespace hobbit
