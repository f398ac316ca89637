#include "experts.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace hobbit {
namespace {

// Tokens that share one walk over a panel: their gate and up values stay on the stack.
constexpr size_t kTokenChunk = 32;
// Reading and unpacking a panel costs about as much as this many tokens' products.
constexpr size_t kPanelCost = 4;
// Weights of the down matrix that a thread takes at once: about 64 KiB at 4 bits.
constexpr size_t kBlockWeights = 1 << 17;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

size_t check_dim(const char* name, size_t value) {
  if (value == 0 || value % kGroup != 0 || value > (1u << 20))
    refuse(std::string("ExpertKernels: ") + name + " must be a positive multiple of 32 up to 1048576, got " +
           std::to_string(value));
  return value;
}

size_t check_count(const char* name, size_t value, size_t top) {
  if (value == 0 || value > top)
    refuse(std::string("ExpertKernels: ") + name + " must be in 1.." + std::to_string(top) + ", got " +
           std::to_string(value));
  return value;
}

ExpertForm checked(const ExpertForm& form) {
  if (!(form.limit > 0)) refuse("ExpertKernels: limit must be above 0, got " + std::to_string(form.limit));
  if (!(form.alpha > 0 && std::isfinite(form.alpha)))
    refuse("ExpertKernels: alpha must be above 0 and finite, got " + std::to_string(form.alpha));
  if (!std::isfinite(form.up_offset)) refuse("ExpertKernels: up_offset must be finite");
  return form;
}

Shape checked(const Shape& s) {
  return {check_dim("hidden", s.hidden), check_dim("intermediate", s.intermediate),
          check_count("top_k", s.top_k, 1024), check_count("max_tokens", s.max_tokens, 1u << 20), checked(s.form)};
}

// Adds biases of N rows to the values of some tokens. Kept out of line: most experts have none.
template <size_t N> [[gnu::noinline]] void add_bias(float (*values)[N], size_t count, const float* bias) {
  for (size_t t = 0; t < count; ++t)
    for (size_t r = 0; r < N; ++r) values[t][r] += bias[r];
}

constexpr int kParts = 5;

// Offsets of the scratch arrays, in the order of the header; returns their size together.
size_t lay_out(const Shape& shape, size_t offset[kParts]) {
  const size_t pairs = shape.max_tokens * shape.top_k, d = shape.hidden;
  const size_t parts[kParts] = {shape.max_tokens * (d / kGroup) * sizeof(ActGroup), shape.max_tokens * d * 4,
                                pairs * shape.intermediate * 4, pairs * d * 4, pairs * 4};
  size_t total = 0;
  for (int k = 0; k < kParts; ++k) {
    offset[k] = total;
    total += (parts[k] + 63) / 64 * 64;
  }
  return total;
}

}  // namespace

size_t ExpertKernels::scratch_bytes_for(const Shape& shape) {
  size_t offset[kParts];
  return lay_out(checked(shape), offset);
}

ExpertKernels::ExpertKernels(const Shape& shape, int threads, const std::string& isa)
    : ExpertKernels(shape, make_team(threads), isa) {}

ExpertKernels::ExpertKernels(const Shape& shape, std::shared_ptr<Team> team, const std::string& isa)
    : shape_(checked(shape)),
      layout_{shape.hidden, shape.intermediate, shape.form.gated, shape.form.bias, shape.form.fp4},
      table_(find_kernels(isa)),
      hidden_(hidden_of(table_, shape_.form)),
      team_(std::move(team)),
      scratch_(scratch_bytes_for(shape)) {
  size_t offset[kParts];
  lay_out(shape_, offset);
  uint8_t* base = scratch_.data();
  x_q_ = reinterpret_cast<ActGroup*>(base + offset[0]);
  x_ = reinterpret_cast<float*>(base + offset[1]);
  h_ = reinterpret_cast<float*>(base + offset[2]);
  h_q_ = reinterpret_cast<ActGroup*>(base + offset[2]);
  y_ = reinterpret_cast<float*>(base + offset[3]);
  seen_ = reinterpret_cast<uint32_t*>(base + offset[4]);
}

void ExpertKernels::release_scratch() {
  std::lock_guard<std::mutex> lock(team_->mutex());
  tokens_ = 0;
  scratch_.release();
}

void ExpertKernels::quantize(const float* x, size_t tokens) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  check_tokens(tokens);
  quantize_locked(x, tokens);
}

void ExpertKernels::run(const Batch& batch) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  check(batch, tokens_);
  run_locked(batch);
}

void ExpertKernels::combine(const float* weights, size_t tokens, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  if (tokens != tokens_)
    refuse("combine: expected " + std::to_string(tokens_) + " tokens (as in quantize), got " + std::to_string(tokens));
  combine_locked(weights, tokens, out);
}

void ExpertKernels::forward(const float* x, size_t tokens, const Batch& batch, const float* weights, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  check_tokens(tokens);
  check(batch, tokens);
  quantize_locked(x, tokens);
  run_locked(batch);
  combine_locked(weights, tokens, out);
}

void ExpertKernels::begin(const Choice& choice) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  begin_locked(choice);
}

void ExpertKernels::run_experts(int tier, const uint64_t* segments, const int32_t* experts, size_t count) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  run_experts_locked(tier, segments, experts, count);
}

void ExpertKernels::so_far(float* out, size_t tokens) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  check_begun("so_far", tokens);
  combine_locked(run_weights_.data(), tokens, out);
}

void ExpertKernels::end(float* out, size_t tokens) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  check_begun("end", tokens);
  combine_locked(weights_.data(), tokens, out);
}

void ExpertKernels::outputs(const int32_t* pairs, size_t count, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  const size_t d = shape_.hidden;
  for (size_t i = 0; i < count; ++i) {
    if (pairs[i] < 0 || size_t(pairs[i]) >= tokens_ * shape_.top_k)
      refuse("outputs: pair " + std::to_string(pairs[i]) + " is not one of " + std::to_string(tokens_) + " tokens");
    std::memcpy(out + i * d, y_ + size_t(pairs[i]) * d, d * sizeof(float));
  }
}

void ExpertKernels::run_resident(const Choice& choice, int tier, const uint64_t* addresses, size_t num_slots,
                                 const int32_t* slots, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  begin_locked(choice);
  batch_segments_.resize(4 * used_.size());
  for (size_t n = 0; n < used_.size(); ++n) {
    const int32_t slot = slots[used_[n]];
    if (slot < 0 || size_t(slot) >= num_slots)
      refuse("run_resident: expert " + std::to_string(used_[n]) + " has no slot");
    std::copy_n(addresses + 4 * size_t(slot), 4, batch_segments_.data() + 4 * n);
  }
  run_experts_locked(tier, batch_segments_.data(), used_.data(), used_.size());
  combine_locked(weights_.data(), choice.tokens, out);
}

// Groups pairs by expert by counting: expert e has pairs [start[e + 1], start[e + 2]).
void ExpertKernels::begin_locked(const Choice& choice) {
  check_tokens(choice.tokens);
  const size_t pairs = choice.tokens * shape_.top_k, experts = choice.num_experts;
  std::vector<int32_t>& start = expert_start_;
  start.assign(experts + 2, 0);
  for (size_t p = 0; p < pairs; ++p) {
    if (choice.ids[p] < 0 || size_t(choice.ids[p]) >= experts)
      refuse("begin: expert ids must be in 0.." + std::to_string(experts - 1) + ", got " + std::to_string(choice.ids[p]));
    if (choice.weights[p] != 0.0f) ++start[size_t(choice.ids[p]) + 1];
  }
  used_.clear();
  for (size_t e = 0; e < experts; ++e) {
    if (start[e + 1]) used_.push_back(int32_t(e));
    start[e + 1] += start[e];  // now where e ends
  }
  start[experts + 1] = start[experts];
  expert_pairs_.resize(size_t(start[experts]));
  for (size_t p = pairs; p-- > 0;)
    if (choice.weights[p] != 0.0f) expert_pairs_[size_t(--start[size_t(choice.ids[p]) + 1])] = int32_t(p);
  weights_.assign(choice.weights, choice.weights + pairs);
  run_weights_.assign(pairs, 0.0f);
  quantize_locked(choice.x, choice.tokens);
}

void ExpertKernels::run_experts_locked(int tier, const uint64_t* segments, const int32_t* experts, size_t count) {
  batch_pairs_.clear();
  batch_starts_.assign(1, 0);
  for (size_t n = 0; n < count; ++n) {
    const size_t e = size_t(experts[n]);
    if (experts[n] < 0 || e + 2 >= expert_start_.size())
      refuse("run_experts: expert " + std::to_string(experts[n]) + " is not one of begin");
    const auto first = expert_pairs_.begin();
    batch_pairs_.insert(batch_pairs_.end(), first + expert_start_[e + 1], first + expert_start_[e + 2]);
    batch_starts_.push_back(int32_t(batch_pairs_.size()));
  }
  const Batch batch{tier, segments, batch_starts_.data(), batch_pairs_.data(), count, batch_pairs_.size()};
  check(batch, tokens_);
  run_locked(batch);
  for (const int32_t pair : batch_pairs_) run_weights_[size_t(pair)] = weights_[size_t(pair)];
}

void ExpertKernels::quantize_locked(const float* x, size_t tokens) {
  const size_t d = shape_.hidden, groups = d / kGroup;
  std::memcpy(x_, x, tokens * d * sizeof(float));
  table_.quantize(x_, tokens * groups, x_q_);
  tokens_ = tokens;
}

void ExpertKernels::check_tokens(size_t tokens) const {
  if (tokens == 0 || tokens > shape_.max_tokens)
    refuse("quantize: expected 1.." + std::to_string(shape_.max_tokens) + " tokens (max_tokens), got " +
           std::to_string(tokens));
}

void ExpertKernels::check_begun(const char* call, size_t tokens) const {
  if (tokens != tokens_ || weights_.size() < tokens * shape_.top_k)
    refuse(std::string(call) + ": expected " + std::to_string(tokens_) + " tokens (as in begin), got " +
           std::to_string(tokens));
}

void ExpertKernels::check(const Batch& b, size_t tokens) {
  if (b.tier != 2 && b.tier != 4 && b.tier != 6 && b.tier != 8 && b.tier != 16)
    refuse("run: tier must be one of 2, 4, 6, 8, 16, got " + std::to_string(b.tier));
  if (layout_.fp4 && (b.tier == 6 || b.tier == 8))
    refuse("run: records of 4-bit floats have tiers 2, 4 and 16, got " + std::to_string(b.tier));
  if (tokens == 0) refuse("run: expected quantize() before run()");
  const int used = b.tier == 16 ? 1 : b.tier / 2;
  if (b.starts[0] != 0 || size_t(b.starts[b.count]) != b.num_pairs)
    refuse("run: starts must begin at 0 and end at " + std::to_string(b.num_pairs) + " pairs, got " +
           std::to_string(b.starts[0]) + " and " + std::to_string(b.starts[b.count]));
  for (size_t n = 0; n < b.count; ++n) {
    if (b.starts[n] > b.starts[n + 1])
      refuse("run: starts must not decrease, they do at expert " + std::to_string(n));
    for (int s = 0; s < used; ++s)
      if (b.segments[4 * n + size_t(s)] == 0)
        refuse("run: segment " + std::to_string(s) + " of expert " + std::to_string(n) + " has address 0 at tier " +
               std::to_string(b.tier));
    uint32_t magic = kRecordMagic;
    if (b.tier != 16) std::memcpy(&magic, reinterpret_cast<const void*>(b.segments[4 * n]), 4);
    if (magic != kRecordMagic)
      refuse("run: segment 0 of expert " + std::to_string(n) + " does not start with HBR1");
  }
  if (++stamp_ == 0) {  // after 2^32 calls old stamps could look new
    std::fill_n(seen_, shape_.max_tokens * shape_.top_k, 0u);
    stamp_ = 1;
  }
  const size_t limit = tokens * shape_.top_k;
  for (size_t i = 0; i < b.num_pairs; ++i) {
    if (b.pairs[i] < 0 || size_t(b.pairs[i]) >= limit)
      refuse("run: pair index must be in 0.." + std::to_string(limit - 1) + " (" + std::to_string(tokens) +
             " tokens), got " + std::to_string(b.pairs[i]));
    uint32_t& seen = seen_[b.pairs[i]];
    if (seen == stamp_) refuse("run: pair " + std::to_string(b.pairs[i]) + " occurs twice in one call");
    seen = stamp_;
  }
}

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
  alignas(64) float values[2][kTokenChunk][kGroup], h[kGroup];
  const ActGroup* acts[kTokenChunk];
  const float* floats[kTokenChunk];
  const size_t d = shape_.hidden, groups = d / kGroup, end = size_t(b.starts[expert + 1]);
  const auto* bf16 = reinterpret_cast<const uint8_t*>(b.segments[4 * expert]);
  for (size_t first = size_t(b.starts[expert]); first < end; first += kTokenChunk) {
    const size_t count = std::min(kTokenChunk, end - first);
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
  alignas(64) float values[kTokenChunk][kPanelRows];
  const ActGroup* acts[kTokenChunk];
  const float* floats[kTokenChunk];
  const size_t i = shape_.intermediate, end = size_t(b.starts[expert + 1]);
  const auto* bf16 = reinterpret_cast<const uint8_t*>(b.segments[4 * expert]);
  for (size_t first = size_t(b.starts[expert]); first < end; first += kTokenChunk) {
    const size_t count = std::min(kTokenChunk, end - first);
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
