// The two matrix layers of a batch of experts, and the sum of their outputs. Threads share panels, not experts.
#include <algorithm>
#include <cstring>

#include "experts.hpp"

namespace hobbit {
namespace {

// Tokens that share one walk over a panel: their gate and up values stay on the stack.
constexpr size_t kTokenBlock = 32;
// Reading and unpacking a panel costs about as much as this many tokens' products.
constexpr size_t kPanelCost = 4;
// Weights of the down matrix that a thread takes at once: about 64 KiB at 4 bits.
constexpr size_t kBlockWeights = 1 << 17;

// Adds biases of N rows to the values of some tokens. Kept out of line: most experts have none.
template <size_t N> [[gnu::noinline]] void add_bias(float (*values)[N], size_t count, const float* bias) {
  for (size_t t = 0; t < count; ++t)
    for (size_t r = 0; r < N; ++r) values[t][r] += bias[r];
}

}  // namespace

// Threads take ranges of equal estimated cost.
template <class Item>
void ExpertKernels::for_items(const Batch& b, size_t items_per_expert, size_t block, Item item) {
  const auto cost = [&](size_t n) {
    const size_t tokens = size_t(b.starts[n + 1] - b.starts[n]);
    return tokens == 0 ? 0 : kPanelCost + tokens;
  };
  size_t total = 0;
  for (size_t n = 0; n < b.count; ++n) total += cost(n);
  const size_t threads = team_->size();
  size_t expert = 0, passed = 0;
  for (size_t t = 0; t < threads; ++t) {  // where each range starts: the first item at or behind its share of the cost
    const size_t from = total * items_per_expert * t / threads;
    while (expert < b.count && (passed + cost(expert)) * items_per_expert <= from) passed += cost(expert++);
    const size_t inside = expert < b.count ? (from - passed * items_per_expert) / cost(expert) : 0;
    team_->begin_at(t, expert * items_per_expert + inside);
  }
  team_->run_ranges(b.count * items_per_expert, block, [&](size_t i, size_t) {
    if (cost(i / items_per_expert)) item(i / items_per_expert, i % items_per_expert);
  });
}

PanelRef ExpertKernels::panel(const Batch& b, size_t expert, int matrix, size_t index) const {
  const uint64_t* segments = b.segments + 4 * expert;
  const uint8_t* base = reinterpret_cast<const uint8_t*>(segments[0]);
  PanelRef ref{base + layout_.meta_offset(matrix, index), {}};
  const size_t at = layout_.plane_offset(matrix, index);
  for (int k = 0; k < b.tier / 2; ++k)
    ref.plane[k] = reinterpret_cast<const uint8_t*>(segments[k]) + layout_.plane_start(k) + at;
  return ref;
}

const float* ExpertKernels::bias(const Batch& b, size_t expert, int matrix) const {
  const auto* base = reinterpret_cast<const uint8_t*>(b.segments[4 * expert]);
  return reinterpret_cast<const float*>(base + layout_.bias_start(b.tier == 16) + layout_.bias_offset(matrix));
}

// 32 units of one expert: 2 gate and 2 up panels, then silu(gate) * up (or what the form says) and its int8 group.
void ExpertKernels::gate_up(const Batch& b, size_t expert, size_t group) {
  alignas(64) float values[2][kTokenBlock][kGroup], h[kGroup];
  const ActGroup* acts[kTokenBlock];
  const float* floats[kTokenBlock];
  const size_t d = shape_.hidden, groups = d / kGroup, end = size_t(b.starts[expert + 1]);
  const auto* bf16 = reinterpret_cast<const uint8_t*>(b.segments[4 * expert]);
  for (size_t first = size_t(b.starts[expert]); first < end; first += kTokenBlock) {
    const size_t count = std::min(kTokenBlock, end - first);
    for (size_t t = 0; t < count; ++t) {
      const size_t token = size_t(b.pairs[first + t]) / shape_.top_k;
      acts[t] = x_q_ + token * groups;
      floats[t] = x_ + token * d;
    }
    for (size_t p = 2 * group; p < 2 * group + 2; ++p)
      for (int m = layout_.first(); m < kDown; ++m) {
        float* out = values[m][0] + kPanelRows * (p % 2);
        if (b.tier != 16)
          table_.panel(b.tier + layout_.fp4, panel(b, expert, m, p), acts, count, groups, out, kGroup);
        else
          table_.panel_bf16(reinterpret_cast<const uint16_t*>(bf16 + layout_.bf16_offset(m, p)), floats, count, d,
                            out, kGroup);
      }
    if (layout_.bias)
      for (int m = layout_.first(); m < kDown; ++m) add_bias(values[m], count, bias(b, expert, m) + group * kGroup);
    for (size_t t = 0; t < count; ++t) {
      const size_t pair = size_t(b.pairs[first + t]);
      float* target = b.tier == 16 ? h_ + pair * shape_.intermediate + group * kGroup : h;
      hidden_(shape_.form, values[kGate][t], values[kUp][t], kGroup, target);
      if (b.tier != 16) table_.quantize(h, 1, hidden_acts(pair) + group);
    }
  }
}

void ExpertKernels::down(const Batch& b, size_t expert, size_t index) {
  alignas(64) float values[kTokenBlock][kPanelRows];
  const ActGroup* acts[kTokenBlock];
  const float* floats[kTokenBlock];
  const size_t i = shape_.intermediate, end = size_t(b.starts[expert + 1]);
  const auto* bf16 = reinterpret_cast<const uint8_t*>(b.segments[4 * expert]);
  for (size_t first = size_t(b.starts[expert]); first < end; first += kTokenBlock) {
    const size_t count = std::min(kTokenBlock, end - first);
    for (size_t t = 0; t < count; ++t) {
      acts[t] = hidden_acts(size_t(b.pairs[first + t]));
      floats[t] = h_ + size_t(b.pairs[first + t]) * i;
    }
    if (b.tier != 16)
      table_.panel(b.tier + layout_.fp4, panel(b, expert, kDown, index), acts, count, i / kGroup, values[0], kPanelRows);
    else
      table_.panel_bf16(reinterpret_cast<const uint16_t*>(bf16 + layout_.bf16_offset(kDown, index)), floats, count, i,
                        values[0], kPanelRows);
    if (layout_.bias) add_bias(values, count, bias(b, expert, kDown) + index * kPanelRows);
    for (size_t t = 0; t < count; ++t)
      std::memcpy(y_ + size_t(b.pairs[first + t]) * shape_.hidden + index * kPanelRows, values[t], sizeof values[t]);
  }
}

void ExpertKernels::run_locked(const Batch& b) {
  if (b.num_pairs == 0) return;
  const size_t row = shape_.intermediate;  // of the down matrix
  const size_t block = std::max<size_t>(1, kBlockWeights / (kPanelRows * row));
  for_items(b, shape_.intermediate / kGroup, 1, [&](size_t expert, size_t group) { gate_up(b, expert, group); });
  for_items(b, shape_.hidden / kPanelRows, block, [&](size_t expert, size_t index) { down(b, expert, index); });
}

void ExpertKernels::combine_locked(const float* weights, size_t tokens, float* out) {
  const size_t d = shape_.hidden, k = shape_.top_k;
  auto row = [&](size_t t) { table_.combine(y_ + t * k * d, weights + t * k, k, d, out + t * d); };
  if (tokens < 4 * team_->size()) {  // waking the pool would cost more
    for (size_t t = 0; t < tokens; ++t) row(t);
    return;
  }
  team_->run(tokens, 1, [&](size_t t, size_t) { row(t); });
}

}  // namespace hobbit
