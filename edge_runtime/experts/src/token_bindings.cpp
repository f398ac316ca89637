// Python surface of a token's layers. Bookkeeping keeps the GIL; it is released while something is computed or awaited.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "reads_binding.hpp"
#include "token_layer.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr int kOthersFailed = 3;  // the layer was served; reads failed that it did not wait for

using Bias = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Uses = nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Token = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

class Unlocked : public hobbit::Outside {
 public:
  void run(void (*work)(void*), void* context) override {
    nb::gil_scoped_release release;
    work(context);
  }
};

template <class Port> Port& port_of(const nb::object& owner, const char* name) {
  const nb::capsule port = nb::cast<nb::capsule>(owner.attr("port")());
  return *static_cast<Port*>(port.data(name));
}

using Ids = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// note_use(); ahead(state [1, D] or None), or None where there is nothing to look for.
class PythonDecided : public hobbit::Decided {
 public:
  PythonDecided(const hobbit::Table& table, nb::handle rule, nb::handle note_use, nb::handle ahead, bool later, size_t hidden)
      : any_(table, rule), note_use_(note_use), ahead_(ahead), hidden_(hidden) {
    scorer = &any_.get(), looks = !ahead.is_none(), looks_later = looks && later;
  }
  void note_use() override { note_use_(); }
  void look_ahead(const float* state) override {
    if (state == nullptr)
      ahead_(nb::none());
    else
      ahead_(nb::cast(nb::ndarray<nb::numpy, const float, nb::ndim<2>>(state, {1, hidden_}, nb::handle())));
  }

 private:
  hobbit::AnyScorer any_;
  nb::handle note_use_, ahead_;
  size_t hidden_;
};

// The parts kept alive, and what is the same for the layers of a pass.
class BoundLayer {
 public:
  BoundLayer(nb::object reads, nb::object forecast, nb::object router, nb::object compute, hobbit::TokenModel model,
             std::optional<Bias> bias, Out out)
      : reads_(std::move(reads)), forecast_(std::move(forecast)), router_(std::move(router)),
        compute_(std::move(compute)), bias_(std::move(bias)), out_(std::move(out)), bound_(nb::cast<hobbit::BoundReads&>(reads_)),
        layer_({bound_.reads(), forecast_.is_none() ? nullptr : nb::cast<hobbit::UseForecast*>(forecast_),
                port_of<hobbit::RouterPort>(router_, hobbit::kRouterPort),
                port_of<hobbit::ComputePort>(compute_, hobbit::kComputePort), bound_.waiter(), unlocked_},
               with_bias(std::move(model), bias_, bound_.table())) {
    if (out_.shape(0) != 1 || out_.shape(1) != layer_.hidden()) throw std::invalid_argument("token layer: out [1, D]");
  }

  void begin_pass(nb::object frame, Token token, const hobbit::PassMode& mode, std::optional<Uses> uses, nb::object beside,
                  nb::object decider) {
    if (token.shape(0) != 1) throw std::invalid_argument("token layer: expected one token");
    const hobbit::Table& table = bound_.table();
    if (uses && (int(uses->shape(0)) != table.num_layers() || int(uses->shape(1)) != table.num_experts()))
      throw std::invalid_argument("token layer: expected uses [L, E]");
    token_ = token.data()[0];
    frame_ = std::move(frame);
    address_ = nb::cast<nb::capsule>(frame_.attr("port")()).data(hobbit::kFramePort);
    uses_ = std::move(uses);
    mode_ = mode;
    mode_.uses = uses_ ? uses_->data() : nullptr;
    mode_.beside = beside.is_none() ? nullptr : &table_like(nb::cast<hobbit::Table&>(beside));
    mode_.decider = decider.is_none() ? nullptr : &port_of<hobbit::DeciderPort>(decider, hobbit::kDeciderPort);
    beside_ = std::move(beside), decider_ = std::move(decider);
    layer_.take_changes();  // of a pass that failed
  }

  int run(int layer, bool has_input) {
    if (address_ == nullptr) throw std::invalid_argument("token layer: no pass was begun");
    return code(layer_.run(layer, address_, &token_, has_input ? out_.data() : nullptr, mode_, out_.data()));
  }
  int serve(int layer, const Ids& ids, const Weights& weights, const hobbit::Tiers& tiers, bool reads_ahead, nb::handle rule,
            nb::handle note_use, nb::handle ahead, bool looks_later) {
    if (address_ == nullptr) throw std::invalid_argument("token layer: no pass was begun");
    const size_t k = layer_.model().top_k;
    if (ids.shape(0) != 1 || weights.shape(0) != 1 || ids.shape(1) != k || weights.shape(1) != k)
      throw std::invalid_argument("token layer: expected ids and weights [1, K]");
    for (size_t i = 0; i < k; ++i)
      if (ids.data()[i] < 0 || ids.data()[i] >= bound_.table().num_experts())
        throw std::out_of_range("token layer: there is no expert " + std::to_string(ids.data()[i]));
    PythonDecided decided(bound_.table(), rule, note_use, ahead, looks_later, layer_.hidden());
    hobbit::PassMode mode = mode_;
    mode.reads_ahead = reads_ahead;
    return code(layer_.serve(layer, address_, ids.data(), weights.data(), bound_.table().wanted(layer, tiers), mode,
                             decided, out_.data()));
  }
  std::vector<int> look_first(bool reads) {
    if (address_ == nullptr) throw std::invalid_argument("token layer: no pass was begun");
    return layer_.look_first(address_, &token_, mode_, reads);
  }
  void end_pass() {
    address_ = nullptr;
    frame_ = nb::object();
    uses_.reset();
    mode_ = {};
    beside_ = decider_ = nb::object();
  }
  hobbit::TokenLayer& layer() { return layer_; }

 private:
  int code(hobbit::Served served) const {
    return served == hobbit::Served::whole && !layer_.failed().empty() ? kOthersFailed : int(served);
  }
  hobbit::SlotTable& table_like(hobbit::Table& beside) const {
    if (beside.num_layers() != bound_.table().num_layers() || beside.num_experts() != bound_.table().num_experts())
      throw std::invalid_argument("token layer: the table beside is of another model");
    return beside;
  }
  static hobbit::TokenModel with_bias(hobbit::TokenModel model, const std::optional<Bias>& bias,
                                      const hobbit::Table& table) {
    if (!bias) return model;
    if (bias->shape(0) != model.sparse.size() || int(bias->shape(1)) != table.num_experts())
      throw std::invalid_argument("token layer: expected biases [S, E]");
    model.logit_bias = bias->data();
    return model;
  }

  nb::object reads_, forecast_, router_, compute_;
  std::optional<Bias> bias_;
  Out out_;
  Unlocked unlocked_;
  hobbit::BoundReads& bound_;
  hobbit::TokenLayer layer_;
  nb::object frame_, beside_, decider_;
  void* address_ = nullptr;
  int32_t token_ = 0;
  std::optional<Uses> uses_;
  hobbit::PassMode mode_;
};

hobbit::PassMode mode_of(bool reads_ahead, int depth, bool evicts, bool collects, bool notes_residents, double timeout_s) {
  hobbit::PassMode mode;
  mode.reads_ahead = reads_ahead, mode.depth = depth, mode.evicts = evicts, mode.collects = collects;
  mode.notes_residents = notes_residents, mode.read_timeout_s = timeout_s;
  return mode;
}

}  // namespace

void bind_token_layer(nb::module_& m) {
  nb::class_<BoundLayer>(m, "TokenLayer")
      .def("__init__",
           [](BoundLayer* self, nb::object reads, nb::object forecast, nb::object router, nb::object compute, size_t top_k,
              int tier, std::vector<int> sparse, std::vector<uint8_t> has_shared, std::optional<Bias> logit_bias, Out out) {
             new (self) BoundLayer(reads, forecast, router, compute,
                                   {top_k, tier, std::move(sparse), std::move(has_shared), nullptr}, logit_bias, out);
           },
           "reads"_a, "forecast"_a.none(), "router"_a, "compute"_a, "top_k"_a, "tier"_a, "sparse"_a, "has_shared"_a,
           "logit_bias"_a.none(), "out"_a.noconvert())
      .def("begin_pass",
           [](BoundLayer& l, nb::object frame, Token token, bool reads_ahead, int depth, bool evicts, bool collects,
              bool notes_residents, std::optional<Uses> uses, double read_timeout_s, nb::object beside,
              nb::object decider) {
             l.begin_pass(std::move(frame), token,
                          mode_of(reads_ahead, depth, evicts, collects, notes_residents, read_timeout_s),
                          std::move(uses), std::move(beside), std::move(decider));
           },
           "frame"_a, "token"_a, "reads_ahead"_a, "depth"_a, "evicts"_a, "collects"_a, "notes_residents"_a,
           "uses"_a.noconvert().none(), "read_timeout_s"_a, "beside"_a.none(), "decider"_a.none())
      .def("serve", &BoundLayer::serve, "layer"_a, "ids"_a, "weights"_a, "tiers"_a, "reads_ahead"_a, "rule"_a,
           "note_use"_a, "ahead"_a.none(), "looks_later"_a)
      .def("run", &BoundLayer::run, "layer"_a, "has_input"_a)
      .def("look_first", &BoundLayer::look_first, "reads"_a)
      .def("chosen", [](BoundLayer& l) { return l.layer().chosen(); })
      .def("failed",
           [](BoundLayer& l) {
             const nb::list failed = hobbit::finished(l.layer().failed());
             l.layer().forget_failed();
             return nb::make_tuple(failed, l.layer().fatal(), l.layer().awaited());
           })
      .def("end_pass",
           [](BoundLayer& l) {
             l.end_pass();
             const hobbit::LayerTimes times = l.layer().take_times();
             return nb::make_tuple(times.trunk_ns, times.experts_ns, times.stall_ns);
           })
      .def("changes",
           [](BoundLayer& l) {
             const hobbit::PassChanges found = l.layer().take_changes();
             std::vector<std::pair<int, int64_t>> by_tier;
             for (int tier = 0; tier < hobbit::kNumTiers; ++tier)
               if (found.substituted_to[tier]) by_tier.emplace_back(tier, found.substituted_to[tier]);
             return nb::make_tuple(found.total.substituted, found.total.skipped, found.total.route_changed, by_tier);
           });
}
