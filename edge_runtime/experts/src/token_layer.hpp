// A layer of one token: serves experts as they come and computes them; under a policy that follows its router it routes
// and looks ahead, too. What engine/forward_pass.py does over stream.py and prefetcher.py, in one call.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "../../base/src/layer_ports.hpp"
#include "forecast_scorer.hpp"
#include "slot_reads.hpp"

namespace hobbit {

// What of a model matters here. Layers count dense ones, too.
struct TokenModel {
  size_t top_k = 0;
  int tier = 0;                       // the full one
  std::vector<int> sparse;            // layers with experts, ascending
  std::vector<uint8_t> has_shared;    // by layer
  const float* logit_bias = nullptr;  // [S, E], added to what a router's matrix gives
};

// How a pass runs.
struct PassMode {
  bool reads_ahead = false;        // experts may be read that no layer asked for yet
  int depth = 0;                   // layers looked ahead; 0: nothing is predicted
  bool evicts = true;              // not every expert has a slot
  bool collects = false;           // what was read in the background serves a layer as soon as it is there
  bool notes_residents = true;     // the rule is told of uses, also where all a layer asks for is in memory
  int64_t* uses = nullptr;         // [L, E], counted where somebody wants to know
  SlotTable* beside = nullptr;     // goes through the same requests without reads ahead, and is what decisions see
  DeciderPort* decider = nullptr;  // of layers that are not served for somebody's decision; null: the router's choice
  double read_timeout_s = 0;
};

struct LayerTimes {
  int64_t trunk_ns = 0, experts_ns = 0, stall_ns = 0;
};

// What decisions of a pass changed; uses below the full tier also by the tier they were served at.
struct PassChanges {
  Changes total;
  int64_t substituted_to[kNumTiers] = {};
};

enum class Served { whole, read_failed, timed_out };

// Runs work that needs no Python without holding its lock.
class Outside {
 public:
  virtual ~Outside() = default;
  virtual void run(void (*work)(void*), void* context) = 0;
  template <class Work> void run(Work& work) {
    run([](void* context) { (*static_cast<Work*>(context))(); }, &work);
  }
};

// What somebody else decided for a layer, and what that somebody does meanwhile. May throw.
class Decided {
 public:
  virtual ~Decided() = default;
  virtual void note_use() = 0;                    // tell the eviction rule what the layer uses
  virtual void look_ahead(const float* state) = 0;  // start reads for coming layers; null: by what entered the router
  Scorer* scorer = nullptr;
  bool looks = false;        // whether `look_ahead` has anything to do
  bool looks_later = false;  // whether it gains by what experts in memory give
};

class TokenLayer {
 public:
  struct Parts {
    SlotReads& reads;
    UseForecast* forecast;  // null where another rule says who goes: then layers are served only
    RouterPort& router;
    ComputePort& compute;
    ReadWaiter& waiter;
    Outside& outside;
  };
  TokenLayer(const Parts& parts, TokenModel model);

  // `expert_out` [D] of the layer before, or null; `out` [D] may be the same. Unless all was served, every read was
  // cancelled or awaited and nothing stays pinned; so where it throws.
  Served run(int layer, void* frame, const int32_t* token, const float* expert_out, const PassMode& mode, float* out);

  // The same of a layer whose dense part ran, for what was decided: ids [K], weights [K] and tiers [E].
  Served serve(int layer, void* frame, const int32_t* ids, const float* weights, const uint8_t* tiers,
               const PassMode& mode, Decided& decided, float* out);
  // Of a pass no layer of which has run: experts that the first layer may use, by the token's embedding, and that lack
  // something; reads them, if it is to.
  std::vector<int> look_first(void* frame, const int32_t* token, const PassMode& mode, bool reads);

  const TokenModel& model() const { return model_; }
  size_t hidden() const { return state_.size(); }
  LayerTimes take_times() { return std::exchange(times_, {}); }  // since they were taken last
  PassChanges take_changes() { return std::exchange(changes_, {}); }  // since they were taken last
  const std::vector<int32_t>& chosen() const { return routed_; }  // by the router, whatever was decided
  const std::vector<FinishedRead>& failed() const { return failed_; }  // reads that failed and were not told of
  void forget_failed() { failed_.clear(); }
  std::size_t fatal() const { return fatal_; }        // of those, the one that was waited for
  std::size_t awaited() const { return num_awaited_; }  // reads under way when the time was over

 private:
  struct Choice {
    std::vector<int32_t> ids;
    std::vector<float> weights;
    std::vector<uint8_t> tiers;
    ChoiceRow row() { return {ids.data(), weights.data(), tiers.data(), ids.size(), tiers.size()}; }
  };
  struct Call {
    int layer;
    void* frame;
    const int32_t* token;
    const PassMode& mode;
    float* out;
    LayerRow row{};
    Decided* decided = nullptr;  // null: the router's choice, and this class looks ahead
    const float* shared = nullptr;
    bool ran_shared = false, has_looked = false;
  };

  // Returns the logits it was routed by.
  const float* choose(int layer, const float* logits, const int32_t* token, Choice& choice);
  void decide(const Call& call, const float* logits);
  void predict(const PassMode& mode, int layer, const float* logits);
  const uint8_t* shown(const PassMode& mode, int layer) const { return (mode.beside ? *mode.beside : table_).tiers(layer); }
  void require_experts(int layer) const;
  void note_use(const Call& call);
  void collect_others();
  Served serve(Call& call);
  bool serve_residents(Call& call);
  Served stream(Call& call);
  void compute(Call& call, const std::vector<int>& experts, const std::vector<int>& slots);
  void compute_at(int tier, const std::vector<int>& experts, const std::vector<int>& slots);
  void start_reads(const Call& call);
  Scorer& scorer_of(const Call& call) { return call.decided != nullptr ? *call.decided->scorer : *scorer_; }
  Served gather(const Call& call);
  Served take(const Call& call, double timeout_s);
  void run_shared(Call& call);
  void finish(Call& call);
  void add_shared(const Call& call);
  void look_by_router(Call& call);
  void look(const Call& call, const float* state);
  int prefetch_predicted(int layer);
  void look_behind_residents(Call& call);
  template <class Work> void timed(int64_t& ns, Work work);

  SlotReads& reads_;
  SlotTable& table_;
  UseForecast* forecast_;
  std::optional<ForecastScorer> scorer_;
  RouterPort& router_;
  ComputePort& compute_;
  ReadWaiter& waiter_;
  Outside& outside_;
  const TokenModel model_;
  std::vector<int> place_;  // by layer, among those with experts; -1: it has none

  Choice choice_, coming_;
  std::vector<int32_t> routed_;
  PassChanges changes_;
  std::vector<int> awaited_, missing_, ready_;  // of the layer: slots, experts, slots
  std::vector<float> biased_, state_, logits_;
  std::vector<int64_t> keys_;
  std::vector<int32_t> batch_;
  std::vector<uint64_t> segments_;
  LayerTimes times_;
  std::vector<FinishedRead> failed_;
  std::size_t fatal_ = 0, num_awaited_ = 0;
};

}  // namespace hobbit
