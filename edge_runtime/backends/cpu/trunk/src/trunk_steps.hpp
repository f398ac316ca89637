// Steps of a layer that take the rest of the step as a function; for the units that make up DenseTrunk.
#pragma once
#include "trunk.hpp"

namespace hobbit {

// Rows of a chunk whose products with a pair of panels stay on the stack.
constexpr size_t kRowBlock = 32;

inline size_t round_up(size_t n) { return (n + 63) / 64 * 64; }

template <class Row> void DenseTrunk::for_rows(size_t tokens, Row row) {
  if (tokens < 4 * team_->size() || team_->size() == 1) {  // waking the others would cost more
    for (size_t t = 0; t < tokens; ++t) row(t);
    return;
  }
  team_->run(tokens, 1, [&](size_t t, size_t) { row(t); });
}

template <class Run>
void DenseTrunk::into_stream(Frame& frame, const float* out_norm, const float* bias, Run product) {
  const size_t d = model_.hidden;
  if (out_norm == nullptr) return product(Target{frame.resid, d, bias, model_.residual_scale, 0.0f, true});
  product(Target{part_, d, bias});
  for_rows(frame.tokens, [&](size_t t) {
    float* row = part_ + t * d;
    rms(row, d, out_norm, row);
    table_.add(frame.resid + t * d, row, d, model_.residual_scale);
  });
}

}  // namespace hobbit
