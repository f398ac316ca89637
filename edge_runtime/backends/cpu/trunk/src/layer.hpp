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
};

enum Vector : int {
  kJoinExpertsNorm, kJoinOutNorm, kJoinScale, kAttnNorm, kAttnNormBias, kQkvBias, kQNorm, kKNorm, kHeadNorms, kSinks,
  kOBias, kAttnOutNorm, kFfnNorm, kFfnNormBias, kFfnOutNorm, kLayerScale, kSharedNorm, kSharedOutNorm, kSharedGate,
  kHeadBias, kVectors
};
enum Product : int { kQkv, kO, kRouter, kUp, kDown, kSharedUp, kSharedDown, kHead, kProducts };

struct Layer {
  LayerForm form;
  std::array<std::vector<float>, kVectors> vectors;  // those it has
  std::array<std::shared_ptr<const DenseMatrix>, kProducts> matrices;

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
