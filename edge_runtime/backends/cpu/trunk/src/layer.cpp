#include "layer.hpp"

#include <algorithm>
#include <stdexcept>

namespace hobbit {
namespace {

const char* const kVectorNames[kVectors] = {
    "join_experts_norm", "join_out_norm", "join_scale", "attn_norm", "attn_norm_bias", "qkv_bias", "q_norm", "k_norm",
    "head_norms", "sinks", "o_bias", "attn_out_norm", "ffn_norm", "ffn_norm_bias", "ffn_out_norm", "layer_scale",
    "shared_norm", "shared_out_norm", "shared_gate", "head_bias", "taps", "taps_bias", "decay", "step_bias", "skip",
    "mixer_norm", "latent_bias", "latent_norm", "query_a_bias", "query_a_norm"};
const char* const kProductNames[kProducts] = {"qkv", "o", "router", "up", "down",
                                              "shared_up", "shared_down", "head", "rates", "forget_a", "forget_b",
                                              "gate_a", "gate_b", "query", "query_a"};

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("layer: " + what); }

template <class Which, size_t N> Which named(const char* const (&names)[N], const std::string& name) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) refuse("there is no part named '" + name + "'");
  return Which(found - names);
}

// Numbers of a token that the convolution of a layer mixes.
size_t channels_of(const ModelForm& model, const MixerForm& form) {
  return form.rule == Rule::convolution ? model.hidden : form.channels();
}

// Of what a state forgets: one a head, or one for each of its rows.
size_t decays_of(const MixerForm& form) { return form.value_heads * (form.rule == Rule::kimi_delta ? form.key_dim : 1); }

size_t size_of(const ModelForm& model, const Layer& layer, Vector which) {
  const LayerForm& form = layer.form;
  switch (which) {
    case kJoinScale: case kLayerScale: return 1;
    case kQkvBias: return form.mixer.rule == Rule::convolution ? 3 * model.hidden : layer.projected();
    case kQNorm: return layer.queries();
    case kKNorm: return layer.keys();
    case kHeadNorms: return layer.queries() + layer.keys();
    case kSinks: return layer.form.heads;
    case kHeadBias: return layer.has(kHead) ? layer.matrix(kHead).outputs() : 0;
    case kLatentBias: return form.latent.kept();
    case kLatentNorm: return form.latent.kv_rank;
    case kQueryABias: case kQueryANorm: return form.latent.query_rank;
    case kTaps: return form.mixer.kernel * channels_of(model, form.mixer);
    case kTapsBias: return channels_of(model, form.mixer);
    case kDecay: case kStepBias: return decays_of(form.mixer);
    case kSkip: return form.mixer.value_heads;
    case kMixerNorm: return form.mixer.rule == Rule::mamba2 ? form.mixer.values() : form.mixer.value_dim;
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

void need_vector(const Layer& layer, Vector which) {
  if (layer.vector(which) == nullptr) refuse(std::string(kVectorNames[which]) + " is missing");
}

void need_mixer(const ModelForm& model, const Layer& layer) {
  const MixerForm& form = layer.form.mixer;
  const size_t d = model.hidden, heads = form.value_heads;
  if (form.rule == Rule::none) return;
  if (layer.form.heads > 0) refuse("attention and a recurrence at once");
  if (form.kernel == 0 || form.kernel > kMostTaps) refuse("kernel must be 1 to 64");
  need_vector(layer, kTaps);
  if (form.rule == Rule::convolution) {
    need_matrix(layer, kQkv, 3 * d, d);
    return need_matrix(layer, kO, d, d);
  }
  if (form.key_heads == 0 || heads == 0 || heads % form.key_heads || form.key_dim == 0 || form.value_dim == 0)
    refuse("key_heads must divide value_heads, and widths be above 0");
  const bool kimi = form.rule == Rule::kimi_delta, mamba = form.rule == Rule::mamba2;
  if (kimi && (form.key_heads != heads || form.key_dim != form.value_dim)) refuse("keys must be as values");
  need_matrix(layer, kQkv, form.channels() + (kimi ? 0 : form.values()), d);
  need_matrix(layer, kRates, kimi || mamba ? heads : 2 * heads, d);
  need_matrix(layer, kO, d, form.values());
  for (Vector which : {kDecay, kStepBias, kMixerNorm}) need_vector(layer, which);
  if (mamba) need_vector(layer, kSkip);
  for (Product low : {kForgetA, kGateA}) {
    if (!kimi) break;
    need_matrix(layer, low, form.value_dim, d);
    need_matrix(layer, Product(low + 1), form.values(), form.value_dim);
  }
}

void need_heads(const std::vector<std::shared_ptr<const DenseMatrix>>& found, size_t heads, size_t outputs,
                size_t inputs) {
  if (found.size() != heads) refuse("expected a matrix for each of " + std::to_string(heads) + " heads");
  for (const auto& m : found)
    if (m == nullptr || m->outputs() != outputs || m->inputs() != inputs || m->bits() != found[0]->bits() ||
        m->block() != found[0]->block())
      refuse("a head's matrix: expected " + std::to_string(outputs) + " x " + std::to_string(inputs));
}

void need_latent(const ModelForm& model, const Layer& layer) {
  const LatentForm& form = layer.form.latent;
  if (form.heads == 0) return;
  if (layer.form.heads > 0 || layer.form.mixer.rule != Rule::none) refuse("two kinds of attention at once");
  if (form.kv_rank == 0 || form.nope_dim == 0 || form.rope_dim == 0 || form.value_dim == 0)
    refuse("widths of latent attention must be above 0");
  if (layer.form.rotated > form.rope_dim || layer.form.rotated % 2) refuse("rotated must be even and at most rope_dim");
  need_vector(layer, kLatentNorm);
  need_matrix(layer, kQkv, form.kept(), model.hidden);
  if (form.query_rank > 0) {
    need_vector(layer, kQueryANorm);
    need_matrix(layer, kQueryA, form.query_rank, model.hidden);
  }
  need_matrix(layer, kQuery, form.heads * form.query(), form.query_rank > 0 ? form.query_rank : model.hidden);
  need_heads(layer.key_up, form.heads, form.kv_rank, form.nope_dim);
  need_heads(layer.value_up, form.heads, form.value_dim, form.kv_rank);
  need_matrix(layer, kO, model.hidden, form.heads * form.value_dim);
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
  need_mixer(model, layer);
  need_latent(model, layer);
  if ((form.mixes() || layer.has(kHead)) && layer.vector(kAttnNorm) == nullptr) refuse("attn_norm is missing");
  if (form.sparse) {
    need_matrix(layer, kRouter, model.experts, model.hidden);
    if (layer.matrix(kRouter).bits() != 32) refuse("router: expected floats: nobody quantises what it is applied to");
  }
  if ((form.sparse || form.dense.width > 0) && layer.vector(kFfnNorm) == nullptr) refuse("ffn_norm is missing");
  if (form.joins_parallel && layer.vector(kJoinExpertsNorm) == nullptr) refuse("join_experts_norm is missing");
  need_mlp(layer, form.dense, kDenseUp, kDenseDown, model.hidden);
  need_mlp(layer, form.shared, kSharedUp, kSharedDown, model.hidden);
  if (form.shared_parallel && (layer.vector(kSharedNorm) == nullptr || layer.vector(kSharedOutNorm) == nullptr))
    refuse("norms of the network in parallel are missing");
  if (layer.has(kHead)) need_matrix(layer, kHead, layer.matrix(kHead).outputs(), model.hidden);
}

}  // namespace hobbit
