// What an expert computes between its matrices: `ExpertSpec` in base/spec/mlp.py, with its formula.
#pragma once
#include <limits>

namespace hobbit {

enum class Activation : int { silu = 0, gelu_tanh = 1, relu2 = 2 };
constexpr int kActivations = 3;

struct ExpertForm {
  bool gated = true, bias = false;
  Activation activation = Activation::silu;
  float limit = std::numeric_limits<float>::infinity();  // nothing is clamped
  float alpha = 1.0f, up_offset = 0.0f;

  // SiLU(gate) * up and nothing else: what most families have.
  bool plain() const {
    return gated && activation == Activation::silu && alpha == 1.0f && up_offset == 0.0f &&
           limit == std::numeric_limits<float>::infinity();
  }
};

}  // namespace hobbit
