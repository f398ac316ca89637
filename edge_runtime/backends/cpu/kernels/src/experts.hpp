// Runs experts straight from record bytes: quantise once, gate/up, down, weighted sum.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "isa.hpp"
#include "layout.hpp"
#include "pages.hpp"
#include "team.hpp"

namespace hobbit {

struct Shape {
  size_t hidden, intermediate, top_k, max_tokens;
  ExpertForm form = {};
};

// One call's experts. `segments` is [count, 4] addresses; expert n owns pairs starts[n]..starts[n+1].
struct Batch {
  int tier;
  const uint64_t* segments;
  const int32_t* starts;
  const int32_t* pairs;
  size_t count, num_pairs;
};

class ExpertKernels {
 public:
  ExpertKernels(const Shape& shape, std::shared_ptr<Team> team, const std::string& isa);
  ExpertKernels(const Shape& shape, int threads, const std::string& isa);  // with a team of its own

  static size_t scratch_bytes_for(const Shape& shape);  // what the constructor allocates
  const char* isa() const { return table_.name; }
  int threads() const { return int(team_->size()); }
  size_t scratch_bytes() const { return scratch_.size(); }
  void release_scratch();  // to the system; what ran before is forgotten
  const Shape& shape() const { return shape_; }

  // All throw std::invalid_argument and leave earlier results alone. Calls are serialised.
  void quantize(const float* x, size_t tokens);
  void run(const Batch& batch);
  void combine(const float* weights, size_t tokens, float* out);
  void forward(const float* x, size_t tokens, const Batch& batch, const float* weights, float* out);

  // The same in terms of a choice: which experts [tokens, K] at which weights; a weight of 0 is not computed.
  struct Choice {
    const float* x;
    const int32_t* ids;
    const float* weights;
    size_t tokens, num_experts;
  };
  void begin(const Choice& choice);
  // `segments` is [count, 4] addresses of distinct experts of the choice.
  void run_experts(int tier, const uint64_t* segments, const int32_t* experts, size_t count);
  void so_far(float* out, size_t tokens);  // the weighted sum of the experts that ran since `begin`
  void end(float* out, size_t tokens);
  void outputs(const int32_t* pairs, size_t count, float* out);  // of the pairs as they were run last
  // All three, for experts that are all there: `addresses` is [num_slots, 4], `slots` [num_experts].
  void run_resident(const Choice& choice, int tier, const uint64_t* addresses, size_t num_slots, const int32_t* slots,
                    float* out);

 private:
  void check_tokens(size_t tokens) const;
  void check_begun(const char* call, size_t tokens) const;
  void check(const Batch& batch, size_t tokens);
  void quantize_locked(const float* x, size_t tokens);
  void run_locked(const Batch& batch);
  void combine_locked(const float* weights, size_t tokens, float* out);
  void begin_locked(const Choice& choice);
  void run_experts_locked(int tier, const uint64_t* segments, const int32_t* experts, size_t count);
  void gate_up(const Batch& batch, size_t expert, size_t group);
  void down(const Batch& batch, size_t expert, size_t index);
  template <class Item> void for_items(const Batch& batch, size_t items_per_expert, size_t block, Item item);
  PanelRef panel(const Batch& batch, size_t expert, int matrix, size_t panel) const;
  const float* bias(const Batch& batch, size_t expert, int matrix) const;
  ActGroup* hidden_acts(size_t pair) { return h_q_ + pair * (shape_.intermediate / kGroup); }

  const Shape shape_;
  const ExpertLayout layout_;
  const KernelTable& table_;
  const Hidden hidden_;
  const std::shared_ptr<Team> team_;

  size_t tokens_ = 0;
  Pages scratch_;
  ActGroup* x_q_;        // [max_tokens, D / 32]
  float* x_;             // [max_tokens, D]
  ActGroup* h_q_;        // [max_tokens * K, I / 32]; shares its bytes with h_
  float* h_;             // [max_tokens * K, I], tier 16
  float* y_;             // [max_tokens * K, D]
  uint32_t* seen_;       // [max_tokens * K], stamp of the last call that used the pair
  uint32_t stamp_ = 0;

  // The choice of `begin`: pairs grouped by expert, and one batch of them.
  std::vector<int32_t> expert_start_, expert_pairs_, used_;
  std::vector<int32_t> batch_pairs_, batch_starts_;
  std::vector<uint64_t> batch_segments_;
  std::vector<float> weights_;
  std::vector<float> run_weights_;  // of the pairs that ran since `begin`; 0 for the others
};

}  // namespace hobbit
