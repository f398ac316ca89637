#include "layer.hpp"

#include <algorithm>
#include <stdexcept>

namespace hobbit {
namespace {

const char* const kVectorNames[kVectors] = {
    "join_experts_norm", "join_out_norm", "join_scale", "attn_norm", "attn_norm_bias", "qkv_bias", "q_norm", "k_norm",
    "head_norms", "sinks", "o_bias", "attn_out_norm", "ffn_norm", "ffn_norm_bias", "ffn_out_norm", "layer_scale",
    "shared_norm", "shared_out_norm", "shared_gate", "head_bias"};
const char* const kProductNames[kProducts] = {"qkv", "o", "router", "up", "down",
                                              "shared_up", "shared_down", "head"};

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("layer: " + what); }

template <class Which, size_t N> Which named(const char* const (&names)[N], const std::string& name) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) refuse("there is no part named '" + name + "'");
  return Which(found - names);
}

size_t size_of(const ModelForm& model, const Layer& layer, Vector which) {
  switch (which) {
    case kJoinScale: case kLayerScale: return 1;
    case kQkvBias: return layer.projected();
    case kQNorm: return layer.queries();
    case kKNorm: return layer.keys();
    case kHeadNorms: return layer.queries() + layer.keys();
    case kSinks: return layer.form.heads;
    case kHeadBias: return layer.has(kHead) ? layer.matrix(kHead).outputs() : 0;
    default: return model.hidden;
  }
}

void need_matrix(const Layer& layer, Product which, size_t outputs, size_t inputs) {
  if (!layer.has(which)) refuse(std::string(kProductNames[which]) + " is missing");
  const DenseMatrix& m = layer.matrix(which);
  if (m.outputs() != outputs || m.inputs() != inputs)
    refuse(std::string(kProductNames[which]) + ": expected " + std::to_string(outputs) + " x " +
           std::to_string(inputs) + ", got " + std::to_string(m.outputs()) + " x " + std::to_string(m.inputs()));
}

void need_mlp(const Layer& layer, const MlpForm& form, Product up, Product down, size_t hidden) {
  if (form.width == 0) return;
  need_matrix(layer, up, form.width * (form.gated ? 2 : 1), hidden);
  need_matrix(layer, down, hidden, form.width);
}

}  // namespace

Vector vector_named(const std::string& name) { return named<Vector>(kVectorNames, name); }
Product product_named(const std::string& name) { return named<Product>(kProductNames, name); }

void check_layer(const ModelForm& model, const Layer& layer) {
  const LayerForm& form = layer.form;
  for (int i = 0; i < kVectors; ++i)
    if (!layer.vectors[i].empty() && layer.vectors[i].size() != size_of(model, layer, Vector(i)))
      refuse(std::string(kVectorNames[i]) + ": expected " + std::to_string(size_of(model, layer, Vector(i))) +
             " numbers, got " + std::to_string(layer.vectors[i].size()));
  if (form.heads > 0) {
    if (form.kv_heads == 0 || form.heads % form.kv_heads || form.head_dim == 0)
      refuse("kv_heads must divide heads, and head_dim be above 0");
    if (form.rotated > form.head_dim || form.rotated % 2) refuse("rotated must be even and at most head_dim");
    need_matrix(layer, kQkv, layer.projected(), model.hidden);
    need_matrix(layer, kO, model.hidden, layer.queries());
  }
  if ((form.heads > 0 || layer.has(kHead)) && layer.vector(kAttnNorm) == nullptr) refuse("attn_norm is missing");
  if (form.sparse) need_matrix(layer, kRouter, model.experts, model.hidden);
  if ((form.sparse || form.dense.width > 0) && layer.vector(kFfnNorm) == nullptr) refuse("ffn_norm is missing");
  if (form.joins_parallel && layer.vector(kJoinExpertsNorm) == nullptr) refuse("join_experts_norm is missing");
  need_mlp(layer, form.dense, kUp, kDown, model.hidden);
  need_mlp(layer, form.shared, kSharedUp, kSharedDown, model.hidden);
  if (form.shared_parallel && (layer.vector(kSharedNorm) == nullptr || layer.vector(kSharedOutNorm) == nullptr))
    refuse("norms of the network in parallel are missing");
  if (layer.has(kHead)) need_matrix(layer, kHead, layer.matrix(kHead).outputs(), model.hidden);
}

}  // namespace hobbit
