#include "experts.hpp"

#include <algorithm>
#include <cstring>

#include "expert_checks.hpp"

namespace hobbit {
namespace {

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
    reject("combine: expected " + std::to_string(tokens_) + " tokens (as in quantize), got " + std::to_string(tokens));
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
      reject("outputs: pair " + std::to_string(pairs[i]) + " is not one of " + std::to_string(tokens_) + " tokens");
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
      reject("run_resident: expert " + std::to_string(used_[n]) + " has no slot");
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
      reject("begin: expert ids must be in 0.." + std::to_string(experts - 1) + ", got " + std::to_string(choice.ids[p]));
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
      reject("run_experts: expert " + std::to_string(experts[n]) + " is not one of begin");
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

}  // namespace hobbit
