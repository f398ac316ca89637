// The functions every instruction set provides, and the list of those this machine can run.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "encode_panel.hpp"
#include "form.hpp"

namespace hobbit {

// 32 activations of one token as int8, with what the minimum term needs.
struct alignas(16) ActGroup {
  int8_t q[32];
  float scale;      // max|x| / 127
  float scale_sum;  // scale * sum(q)
  int32_t sum;
  int32_t unused;
};
static_assert(sizeof(ActGroup) == 48, "kernels step through activations in 48-byte strides");

struct PanelRef {
  const uint8_t* meta;
  const uint8_t* plane[4];
};

// Every function gives the same bits on every ISA: integer dots are exact, float operations are
// the same fused and unfused IEEE operations in the same order per output.
struct KernelTable {
  const char* name;
  void (*quantize)(const float* x, size_t groups, ActGroup* out);
  // out[t * stride + r] = dot(row r of the panel, token t), for `count` tokens; tiers 3 and 5: see panel_impl.hpp.
  void (*panel)(int tier, const PanelRef& panel, const ActGroup* const* tokens, size_t count,
                size_t groups, float* out, size_t stride);
  void (*panel_bf16)(const uint16_t* weights, const float* const* tokens, size_t count,
                     size_t inputs, float* out, size_t stride);
  Hidden swiglu;  // of a plain form
  const FormTable* forms;  // of the others
  void (*combine)(const float* y, const float* weights, size_t top_k, size_t n, float* out);
  EncodePanel encode;
};

extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels, kAvx512VnniKernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonDotprodKernels, kNeonI8mmKernels;
#endif

// Best first; "scalar" is always last.
const std::vector<const KernelTable*>& available_kernels();
// `name` is "auto" or a member of the list. Throws std::invalid_argument naming the list.
const KernelTable& find_kernels(const std::string& name);
Hidden hidden_of(const KernelTable& table, const ExpertForm& form);

}  // namespace hobbit
