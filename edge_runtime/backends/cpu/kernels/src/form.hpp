// What an expert computes between its matrices: `ExpertSpec` in base/spec/mlp.py, with its formula.
#pragma once
#include <cstddef>
#include <limits>

namespace hobbit {

enum class Activation : int { silu = 0, gelu_tanh = 1, relu2 = 2 };
constexpr int kActivations = 3;

struct ExpertForm {
  bool gated = true, bias = false;
  Activation activation = Activation::silu;
  float limit = std::numeric_limits<float>::infinity();  // nothing is clamped
  float alpha = 1.0f, up_offset = 0.0f;
  bool fp4 = false;  // codes of records stand for 4-bit floats

  // SiLU(gate) * up and nothing else: what most families have.
  bool plain() const {
    return gated && activation == Activation::silu && alpha == 1.0f && up_offset == 0.0f &&
           limit == std::numeric_limits<float>::infinity();
  }
};

// h[i], what the down matrix takes, from n values of gate x + b_gate and up x + b_up. `gate` is not read where there is
// no gate matrix.
using Hidden = void (*)(const ExpertForm& form, const float* gate, const float* up, size_t n, float* out);

struct FormTable {
  Hidden gated[kActivations], ungated[kActivations];
};
extern const FormTable kFormsBase;
#if defined(__x86_64__)
extern const FormTable kFormsAvx2, kFormsAvx512;
#endif

}  // namespace hobbit
