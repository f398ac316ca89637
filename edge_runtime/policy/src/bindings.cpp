// Python surface of the single-token choice: arrays by reference, numbers by value; the GIL is kept.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "arrays.hpp"
#include "one_token.hpp"
#include "router.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using hobbit::Array;

// The arrays a choice works on, kept alive.
struct Tables {
  Array<const double, 3> losses;
  Array<const double, 2> missing;
  Array<const double, 1> held, shares;
  Array<double, 2> sums;
  Array<double, 1> factors, tokens;
  std::optional<Array<const double, 2>> expert_factors;

  hobbit::ChoiceArrays checked(const hobbit::ChoiceShape& shape) const {
    const size_t layers = size_t(shape.layers), experts = size_t(shape.experts), choices = shape.served.size();
    if (choices < 2 || shape.served.back() != 0 || losses.shape(0) != layers || losses.shape(1) != experts ||
        losses.shape(2) != choices || missing.shape(0) != size_t(hobbit::kTierRows) || missing.shape(1) != choices ||
        held.shape(0) != size_t(hobbit::kTierRows) || shares.shape(0) != layers || sums.shape(0) != layers ||
        sums.shape(1) != experts || factors.shape(0) != layers || tokens.shape(0) != layers ||
        shape.rule.experts != experts ||
        (expert_factors && (expert_factors->shape(0) != layers || expert_factors->shape(1) != experts)))
      throw std::invalid_argument("one token: expected losses [L, E, C], missing [17, C], held [17], sums [L, E], and "
                                  "shares, factors and tokens [L]");
    return {losses.data(), missing.data(), held.data(), shares.data(),
            expert_factors ? expert_factors->data() : nullptr, sums.data(), factors.data(), tokens.data()};
  }
};

// The router's choice as Python hands it over.
struct Routed {
  Array<const float, 2> logits, preference;
  Array<const int32_t, 2> ids;
  Array<const float, 2> weights;
  Array<const uint8_t, 1> resident;
};

class OneToken : public hobbit::OneToken {
 public:
  OneToken(Tables tables, hobbit::ChoiceShape shape)
      : hobbit::OneToken(tables.checked(shape), shape), tables_(std::move(tables)) {}

  const uint8_t* residents(int layer, const Array<const uint8_t, 1>& resident) const {
    const size_t experts = size_t(shape().experts);
    if (layer < 0 || layer >= shape().layers)
      throw std::out_of_range("one token: there is no layer " + std::to_string(layer));
    if (resident.shape(0) != experts) throw std::invalid_argument("one token: expected the tiers of residents [E]");
    for (size_t i = 0; i < experts; ++i)
      if (resident.data()[i] >= hobbit::kTierRows) throw std::out_of_range("one token: tiers are at most 16");
    return resident.data();
  }

  hobbit::TokenRow row(int layer, const Routed& one, const Array<uint8_t, 1>& tiers) const {
    const size_t experts = size_t(shape().experts), top_k = one.ids.shape(1);
    const uint8_t* resident = residents(layer, one.resident);
    if (one.logits.shape(0) != 1 || one.logits.shape(1) != experts || one.ids.shape(0) != 1 || top_k < 1 ||
        one.preference.shape(0) != 1 || one.preference.shape(1) != experts || one.weights.shape(0) != 1 || one.weights.shape(1) != top_k || tiers.shape(0) != experts)
      throw std::invalid_argument("one token: expected logits [1, E], ids and weights [1, K], and tiers [E]");
    for (size_t i = 0; i < top_k; ++i)
      if (one.ids.data()[i] < 0 || size_t(one.ids.data()[i]) >= experts)
        throw std::out_of_range("one token: there is no expert " + std::to_string(one.ids.data()[i]));
    return {layer, int(top_k), one.logits.data(), one.preference.data(), one.ids.data(), one.weights.data(), resident};
  }

 private:
  Tables tables_;
};

nb::tuple decide(OneToken& self, int layer, Array<const float, 2> logits, Array<const float, 2> preference, Array<const int32_t, 2> ids,
                 Array<const float, 2> weights, Array<const uint8_t, 1> resident, double price, double opportunity_cost,
                 Array<int32_t, 2> decided_ids, Array<float, 2> decided_weights, Array<uint8_t, 1> tiers, Array<uint8_t, 1> later) {
  const auto row = self.row(layer, {logits, preference, ids, weights, resident}, tiers);
  if (decided_ids.size() != size_t(row.top_k) || decided_weights.size() != size_t(row.top_k))
    throw std::invalid_argument("one token: expected K ids and K weights to write to");
  if (later.size() != tiers.size()) throw std::invalid_argument("one token: expected later tiers [E]");
  const auto found =
      self.decide(row, {price, opportunity_cost}, {decided_ids.data(), decided_weights.data(), tiers.data(), later.data()});
  return nb::make_tuple(found.substituted, found.skipped, found.changed, found.loss, found.read_bytes,
                        found.held_bytes);
}

void predict_tiers(OneToken& self, int layer, Array<const float, 2> logits, Array<const float, 2> preference, Array<const int32_t, 2> ids,
             Array<const float, 2> weights, Array<const uint8_t, 1> resident, double price, double opportunity_cost,
             Array<uint8_t, 1> tiers) {
  self.predict_tiers(self.row(layer, {logits, preference, ids, weights, resident}, tiers), {price, opportunity_cost}, tiers.data());
}

}  // namespace

NB_MODULE(_native, m) {
  hobbit::bind_router(m);
  hobbit::bind_deciders(m);
  nb::class_<OneToken>(m, "OneToken")
      .def("__init__",
           [](OneToken* self, Array<const double, 3> losses, Array<const double, 2> missing,
              Array<const double, 1> held, Array<const double, 1> shares, Array<double, 2> sums,
              Array<double, 1> factors, Array<double, 1> tokens, std::vector<uint8_t> served, int full, double horizon,
              double keep, const hobbit::Router& router, std::optional<Array<const double, 2>> expert_factors, int base,
              int upgrades) {
             if (base < 0 || base >= hobbit::kTierRows) throw std::out_of_range("one token: tiers are at most 16");
             const hobbit::ChoiceShape shape{int(losses.shape(0)), int(losses.shape(1)), std::move(served), full,
                                             horizon, keep, router.rule(), base, upgrades};
             new (self) OneToken({losses, missing, held, shares, sums, factors, tokens, expert_factors}, shape);
           },
           "losses"_a, "missing"_a, "held"_a, "shares"_a, "sums"_a.noconvert(), "factors"_a.noconvert(),
           "tokens"_a.noconvert(), "served"_a, "full"_a, "horizon"_a, "keep"_a, "router"_a, "expert_factors"_a = nb::none(),
           "base"_a = 0, "upgrades"_a = 0)
      .def("decide", &decide, "layer"_a, "logits"_a, "preference"_a, "ids"_a, "weights"_a, "resident"_a, "price"_a, "opportunity_cost"_a,
           "decided_ids"_a.noconvert(), "decided_weights"_a.noconvert(), "tiers"_a.noconvert(), "later"_a.noconvert())
      .def("predict_tiers", &predict_tiers, "layer"_a, "logits"_a, "preference"_a, "ids"_a, "weights"_a, "resident"_a, "price"_a, "opportunity_cost"_a,
           "tiers"_a.noconvert())
      .def("value_of_residents",
           [](const OneToken& self, int layer, Array<const uint8_t, 1> resident) {
             return self.value_of_residents(layer, self.residents(layer, resident));
           },
           "layer"_a, "resident"_a);
}
