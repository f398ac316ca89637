// What a layer of one token asks of a router and of a backend, across modules: virtual calls alone, nothing is linked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hobbit {

constexpr const char* kRouterPort = "hobbit.RouterPort";  // names of the capsules that hand them out
constexpr const char* kComputePort = "hobbit.ComputePort";
constexpr const char* kFramePort = "hobbit.Frame";
constexpr const char* kDeciderPort = "hobbit.DeciderPort";

// All throw std::invalid_argument where an argument does not fit.
class RouterPort {
 public:
  virtual ~RouterPort() = default;
  virtual size_t experts() const = 0;
  // The choice of one token: `place` of a sparse layer, logits [E] as they are routed by; writes K of each, heaviest first.
  virtual void choose(size_t place, const float* logits, const int32_t* token, size_t top_k, int32_t* ids,
                      float* weights) = 0;
};

// A token's choice at a layer: ids [K] and weights [K], heaviest first, and what each expert is served at, tiers [E].
struct ChoiceRow {
  int32_t* ids;
  float* weights;
  uint8_t* tiers;
  size_t top_k, experts;
};

// What a decision changed; see `Decision` of edge_runtime/policy/base.py.
struct Changes {
  int64_t substituted = 0, skipped = 0, route_changed = 0;
};

// A policy's decision for one token. `row` holds the router's choice at the full tier; `logits` [E] are what it was
// routed by, `resident` [E] the tiers that the policy may know of.
class DeciderPort {
 public:
  virtual ~DeciderPort() = default;
  virtual Changes decide(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) = 0;
  // The tiers `decide` would ask for if this routing came. Ids stay, weights may not, and nothing is noted.
  virtual void predict(size_t layer, const float* logits, const uint8_t* resident, const ChoiceRow& row) = 0;
  // Whether experts count as used for eviction in the order of `row`, the last one most recently; else by number.
  virtual bool uses_in_order() const { return false; }
};

// What a layer hands to its experts, [1, D] and [1, E].
struct LayerRow {
  const float *x, *seen, *router_logits;
};

// Trunk and expert kernels over the frame of a chunk of one token.
class ComputePort {
 public:
  virtual ~ComputePort() = default;
  virtual size_t hidden() const = 0;
  virtual LayerRow run_layer(size_t layer, void* frame, const float* expert_out) = 0;
  virtual LayerRow row(void* frame) = 0;  // what the last layer that ran handed on
  // Output of the network that every token passes; null where it stays inside.
  virtual const float* run_shared(size_t layer, void* frame) = 0;
  virtual void begin(const float* x, const int32_t* ids, const float* weights, size_t experts) = 0;
  virtual void run_experts(int tier, const uint64_t* segments, const int32_t* experts, size_t count) = 0;
  virtual void so_far(float* out) = 0;
  virtual void end(float* out) = 0;
  // What would enter the router of `coming` if nothing came between but the experts behind `layer` - 1.
  virtual void expect(size_t layer, size_t coming, void* frame, const float* expert_out, float* out) = 0;
  virtual void look_ahead(const float* x, const int32_t* layers, size_t count, float* logits) = 0;
};

}  // namespace hobbit
