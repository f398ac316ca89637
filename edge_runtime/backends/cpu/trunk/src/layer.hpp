// A layer as the native trunk has it: what it computes, and its weights.
#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "form.hpp"
#include "matrix.hpp"

namespace hobbit {

// A dense network; without a width there is none.
struct MlpForm {
  size_t width = 0;
  bool gated = true;
  Activation activation = Activation::silu;
};

// A recurrence or a convolution in place of attention.
enum class Rule : int { none = 0, gated_delta = 1, kimi_delta = 2, mamba2 = 3, convolution = 4 };
constexpr int kRules = 5;
constexpr size_t kMostTaps = 64;

struct MixerForm {
  Rule rule = Rule::none;
  size_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0, kernel = 0;

  size_t keys() const { return key_heads * key_dim; }
  size_t values() const { return value_heads * value_dim; }
  size_t channels() const { return 2 * keys() + values(); }  // what is convolved before a recurrence
  // Numbers of a token that say what a state forgets and learns: one and one for each head, or one for each row of it.
  size_t rates() const { return value_heads * (rule == Rule::kimi_delta ? value_dim + 1 : 2); }
  size_t group() const { return value_heads / key_heads; }   // heads of the state that share a key
};

// MLA: a token is kept as `kv_rank` numbers, normed, and `rope_dim` rotated ones; queries are brought to that space.
struct LatentForm {
  size_t heads = 0, query_rank = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0, value_dim = 0;  // no heads: none of it
  float eps = 0.0f;  // of the norms of what is compressed

  size_t kept() const { return kv_rank + rope_dim; }
  size_t query() const { return nope_dim + rope_dim; }  // of a head
};

struct LayerForm {
  bool joins = false, joins_parallel = false;  // the layer before has experts; a network in parallel with them
  size_t heads = 0, kv_heads = 0, head_dim = 0;  // no heads: no attention
  int rope = -1;                                 // number of its angles
  size_t rotated = 0;                            // numbers of a head that are rotated
  bool rope_pairs = false, norm_behind_rope = false, output_gate = false, shared_kv = false, value_norm = false;
  size_t window = 0;  // tokens that are seen; 0: all
  float score_scale = 1.0f, clip = 0.0f;  // clip 0: none
  bool sparse = false, router_norm = false, shared_parallel = false;
  MlpForm dense, shared;
  MixerForm mixer;
  LatentForm latent;

  bool mixes() const { return heads > 0 || latent.heads > 0 || mixer.rule != Rule::none; }  // tokens
  size_t key_dim() const { return latent.heads > 0 ? latent.kept() : head_dim; }  // of what is kept of a token
};

enum Vector : int {
  kJoinExpertsNorm, kJoinOutNorm, kJoinScale, kAttnNorm, kAttnNormBias, kQkvBias, kQNorm, kKNorm, kHeadNorms, kSinks,
  kOBias, kAttnOutNorm, kFfnNorm, kFfnNormBias, kFfnOutNorm, kLayerScale, kSharedNorm, kSharedOutNorm, kSharedGate,
  kHeadBias, kTaps, kTapsBias, kDecay, kStepBias, kSkip, kMixerNorm, kLatentBias, kLatentNorm, kQueryABias,
  kQueryANorm, kVectors
};
enum Product : int {
  kQkv, kO, kRouter, kDenseUp, kDenseDown, kSharedUp, kSharedDown, kHead, kRates, kForgetA, kForgetB, kGateA, kGateB, kQuery,
  kQueryA, kProducts
};

struct Layer {
  LayerForm form;
  std::array<std::vector<float>, kVectors> vectors;  // those it has
  std::array<std::shared_ptr<const DenseMatrix>, kProducts> matrices;
  std::vector<std::shared_ptr<const DenseMatrix>> key_up, value_up;  // of each head: into the latent space, and back

  const float* vector(Vector which) const { return vectors[which].empty() ? nullptr : vectors[which].data(); }
  const DenseMatrix& matrix(Product which) const { return *matrices[which]; }
  bool has(Product which) const { return matrices[which] != nullptr; }

  size_t queries() const { return form.heads * form.head_dim; }
  size_t keys() const { return form.kv_heads * form.head_dim; }
  size_t projected() const {  // numbers of a token that the first product gives: queries, keys, values, gates
    return queries() * (form.output_gate ? 2 : 1) + keys() * (form.shared_kv ? 1 : 2);
  }
};

Vector vector_named(const std::string& name);  // throws std::invalid_argument
Product product_named(const std::string& name);
// What every layer has in common.
struct ModelForm {
  size_t hidden = 0, experts = 0;
  float eps = 0.0f, residual_scale = 1.0f, logit_scale = 1.0f, softcap = 0.0f;
  bool centred = false;  // LayerNorm
};
// Throws std::invalid_argument where weights are missing or have another size.
void check_layer(const ModelForm& model, const Layer& layer);

}  // namespace hobbit
