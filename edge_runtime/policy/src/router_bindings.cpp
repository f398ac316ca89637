// Python surface of the router: arrays by reference; the GIL is kept.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "arrays.hpp"
#include "layer_ports.hpp"
#include "router.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using hobbit::Array;
using OptionalFloats = std::optional<Array<const float, 2>>;
using OptionalTable = std::optional<Array<const int32_t, 3>>;
using OptionalTokens = std::optional<Array<const int32_t, 1>>;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument("router: " + message); }

hobbit::Score score_named(const std::string& name) {
  if (name == "softmax") return hobbit::Score::softmax;
  if (name == "sigmoid") return hobbit::Score::sigmoid;
  if (name == "sqrt_softplus") return hobbit::Score::sqrt_softplus;
  refuse("there is no score '" + name + "'");
}

// The arrays of a router, kept alive and checked.
struct Tensors {
  OptionalFloats selection_bias, expert_scale;
  OptionalTable table;

  hobbit::RouterTensors checked(size_t layers, const hobbit::RouterRule& rule) const {
    for (const OptionalFloats& one : {selection_bias, expert_scale})
      if (one && (one->shape(0) != layers || one->shape(1) != rule.experts)) refuse("expected numbers of [S, E]");
    if (table) check_table(layers, rule.experts);
    return {selection_bias ? selection_bias->data() : nullptr, expert_scale ? expert_scale->data() : nullptr,
            table ? table->data() : nullptr, layers, table ? table->shape(0) : 0, table ? table->shape(1) : 0,
            table ? table->shape(2) : 0};
  }

 private:
  void check_table(size_t layers, size_t experts) const {
    if (table->shape(0) > layers || table->shape(2) > experts) refuse("expected a table of [H, V, K]");
    for (size_t i = 0; i < table->size(); ++i)
      if (table->data()[i] < 0 || size_t(table->data()[i]) >= experts) refuse("the table names an expert that is not there");
  }
};

class BoundRouter : public hobbit::Router {
 public:
  BoundRouter(const hobbit::RouterRule& rule, size_t layers, Tensors tensors, const std::string& isa)
      : hobbit::Router(rule, tensors.checked(layers, rule), isa), tensors_(std::move(tensors)) {}

  size_t checked(int64_t place) const {
    if (place < 0 || size_t(place) >= layers()) refuse("there is no sparse layer " + std::to_string(place));
    return size_t(place);
  }
  hobbit::RouterPort* port() { return &port_; }

 private:
  struct Port : hobbit::RouterPort {
    explicit Port(BoundRouter& router) : router(router) {}
    size_t experts() const override { return router.rule().experts; }
    void choose(size_t place, const float* logits, const int32_t* token, size_t top_k, int32_t* ids,
                float* weights) override {
      if (top_k < 1 || top_k > experts()) refuse("expected K in 1.." + std::to_string(experts()));
      router.route(router.checked(int64_t(place)), {logits, token, 1, top_k, ids, weights});
    }
    BoundRouter& router;
  };

  Tensors tensors_;
  Port port_{*this};
};

hobbit::RouterRule rule(size_t experts, const std::string& score, bool over_chosen, bool normalise, float epsilon,
                        float scale, size_t groups, size_t chosen_groups, bool two_best, float near, float floor) {
  const hobbit::RouterRule made{experts, score_named(score), over_chosen, normalise, epsilon, scale, groups, chosen_groups, two_best, near, floor};
  if (experts < 1) refuse("expected at least one expert");
  if (groups && (experts % groups || chosen_groups < 1 || chosen_groups > groups || (two_best && groups == experts)))
    refuse("expected groups of equal size");
  return made;
}

hobbit::RouterCall call(const BoundRouter& router, const float* logits, size_t tokens, size_t experts, const OptionalTokens& token_ids,
                        const Array<int32_t, 2>& ids, const Array<float, 2>& weights) {
  const size_t k = ids.shape(1);
  if (experts != router.rule().experts) refuse("expected logits of " + std::to_string(router.rule().experts) + " experts, got " + std::to_string(experts));
  if (k < 1 || k > experts || ids.shape(0) != tokens || weights.shape(0) != tokens || weights.shape(1) != k)
    refuse("expected ids and weights of [" + std::to_string(tokens) + ", K] with K in 1.." + std::to_string(experts));
  if (token_ids && token_ids->shape(0) != tokens) refuse("expected as many token ids as rows of logits");
  return {logits, token_ids ? token_ids->data() : nullptr, tokens, k, ids.data(), weights.data()};
}

void route(BoundRouter& self, int64_t place, Array<const float, 2> logits, Array<int32_t, 2> ids, Array<float, 2> weights,
           OptionalTokens token_ids) {
  self.route(self.checked(place), call(self, logits.data(), logits.shape(0), logits.shape(1), token_ids, ids, weights));
}

void rank(BoundRouter& self, Array<const float, 2> logits, Array<int32_t, 2> ids, Array<float, 2> weights) {
  self.rank(call(self, logits.data(), logits.shape(0), logits.shape(1), std::nullopt, ids, weights));
}

void weigh(BoundRouter& self, int64_t place, Array<const float, 2> logits, Array<int32_t, 2> ids, Array<float, 2> weights) {
  self.weigh(self.checked(place), call(self, logits.data(), logits.shape(0), logits.shape(1), std::nullopt, ids, weights));
}

void route_layers(BoundRouter& self, Array<const float, 3> logits, Array<int32_t, 3> ids, Array<float, 3> weights, OptionalTokens token_ids) {
  const size_t layers = logits.shape(0), tokens = logits.shape(1), experts = logits.shape(2), k = ids.shape(2);
  if (layers != self.layers() || ids.shape(0) != layers || weights.shape(0) != layers || ids.shape(1) != tokens ||
      weights.shape(1) != tokens || weights.shape(2) != k || experts != self.rule().experts || k < 1 || k > experts ||
      (token_ids && token_ids->shape(0) != tokens))
    refuse("expected logits [S, T, E], ids and weights [S, T, K]");
  for (size_t s = 0; s < layers; ++s)
    self.route(s, {logits.data() + s * tokens * experts, token_ids ? token_ids->data() : nullptr, tokens, k,
                   ids.data() + s * tokens * k, weights.data() + s * tokens * k});
}

void preference(BoundRouter& self, int64_t place, Array<const float, 2> logits, Array<float, 2> out) {
  if (logits.shape(1) != self.rule().experts || out.shape(0) != logits.shape(0) || out.shape(1) != logits.shape(1))
    refuse("expected logits and out of [T, E]");
  self.preference(self.checked(place), logits.data(), logits.shape(0), out.data());
}

}  // namespace

void hobbit::bind_router(nb::module_& m) {
  m.def("router_isas", [] {
    std::vector<std::string> names;
    for (const hobbit::RouteFunctions* one : hobbit::available_route_functions()) names.emplace_back(one->name);
    return names;
  });
  nb::class_<hobbit::Router>(m, "_Router");
  nb::class_<BoundRouter, hobbit::Router>(m, "Router")
      .def("__init__",
           [](BoundRouter* self, size_t experts, size_t layers, const std::string& score, bool over_chosen, bool normalise,
              float epsilon, float scale, size_t groups, size_t chosen_groups, bool two_best,
              OptionalFloats selection_bias, OptionalFloats expert_scale, OptionalTable table,
              float near, float floor, const std::string& isa) {
             new (self) BoundRouter(rule(experts, score, over_chosen, normalise, epsilon, scale, groups, chosen_groups, two_best, near, floor),
                               layers, {selection_bias, expert_scale, table}, isa);
           },
           "experts"_a, "layers"_a, nb::kw_only(), "score"_a, "over_chosen"_a, "normalise"_a, "epsilon"_a, "scale"_a,
           "groups"_a, "chosen_groups"_a, "two_best"_a, "selection_bias"_a.none(), "expert_scale"_a.none(),
           "table"_a.none(), "near"_a = -1.0f, "floor"_a = 0.0f, "isa"_a = "auto")
      .def("route", &route, "place"_a, "logits"_a, "ids"_a.noconvert(), "weights"_a.noconvert(),
           "token_ids"_a = nb::none())
      .def("route_layers", &route_layers, "logits"_a, "ids"_a.noconvert(), "weights"_a.noconvert(),
           "token_ids"_a = nb::none())
      .def("port", [](BoundRouter& r) { return nb::capsule(r.port(), hobbit::kRouterPort); })
      .def("rank", &rank, "logits"_a, "ids"_a.noconvert(), "weights"_a.noconvert())
      .def("weigh", &weigh, "place"_a, "logits"_a, "ids"_a.noconvert(), "weights"_a.noconvert())
      .def("preference", &preference, "place"_a, "logits"_a, "out"_a.noconvert());
}
