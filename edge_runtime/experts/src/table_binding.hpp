// The slot table as Python has it, and eviction rules in Python. Included by bindings alone.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "forecast_scorer.hpp"

namespace hobbit {

namespace nb = nanobind;

using Tiers = nb::ndarray<const uint8_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using TierTable = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using SlotRows = nb::ndarray<int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Chosen = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using KeyRow = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// float64 [S] from what a rule returned: float64 or float32.
inline std::vector<double> scores_of(nb::handle array, int slots) {
  const auto found = nb::cast<nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>>(array);
  if (int(found.shape(0)) != slots)
    throw std::invalid_argument("scores: expected " + std::to_string(slots) + ", got " + std::to_string(found.shape(0)));
  if (found.dtype() == nb::dtype<double>()) {
    const auto* first = static_cast<const double*>(found.data());
    return {first, first + slots};
  }
  if (found.dtype() != nb::dtype<float>()) throw std::invalid_argument("scores: expected float64 or float32");
  const auto* first = static_cast<const float*>(found.data());
  return {first, first + slots};
}

// A rule in Python: scores(layer) -> (of residents, of their planes or None); top(layer, slot, tier) -> float.
class PythonScorer : public Scorer {
 public:
  PythonScorer(int slots, nb::handle scores, nb::handle top) : slots_(slots), scores_(scores), top_(top) {}
  Scores all(int layer) override {
    const nb::tuple both = nb::cast<nb::tuple>(scores_(layer));
    Scores found{scores_of(both[0], slots_), {}};
    if (!both[1].is_none()) found.tops = scores_of(both[1], slots_);
    return found;
  }
  double top(int layer, int slot, int tier) override { return nb::cast<double>(top_(layer, slot, tier)); }

 private:
  int slots_;
  nb::handle scores_, top_;
};

// The table with the arrays it works on kept alive.
class Table : public SlotTable {
 public:
  Table(Ledger& ledger, TierTable tiers, SlotRows slots, KeyRow keys)
      : SlotTable(ledger, checked(ledger, tiers, slots, keys), int(tiers.shape(0)), int(tiers.shape(1))),
        tiers_(std::move(tiers)), slots_(std::move(slots)), keys_(std::move(keys)) {}

  const uint8_t* wanted(int layer, const Tiers& tiers) const {
    if (layer < 0 || layer >= num_layers()) throw std::out_of_range("table: there is no layer " + std::to_string(layer));
    if (int(tiers.shape(0)) != num_experts())
      throw std::invalid_argument("table: expected tiers of " + std::to_string(num_experts()) + " experts, got " +
                                  std::to_string(tiers.shape(0)));
    return tiers.data();
  }
  void require_experts(const std::vector<int>& experts) const {
    for (const int expert : experts)
      if (expert < 0 || expert >= num_experts())
        throw std::out_of_range("table: there is no expert " + std::to_string(expert));
  }
  void require_slots(const std::vector<int>& slots) const {
    for (const int slot : slots)
      if (slot < 0 || slot >= num_slots()) throw std::out_of_range("table: there is no slot " + std::to_string(slot));
  }
  int used(int slot) const {
    require_slots({slot});
    if (keys_.data()[slot] == kFree) throw std::out_of_range("table: slot " + std::to_string(slot) + " is free");
    return slot;
  }

 private:
  static TableArrays checked(const Ledger& ledger, TierTable& tiers, SlotRows& slots, KeyRow& keys) {
    if (slots.shape(0) != tiers.shape(0) || slots.shape(1) != tiers.shape(1) ||
        int64_t(keys.shape(0)) != ledger.max_experts())
      throw std::invalid_argument("table: expected tiers and slots [L, E] and keys of all experts of the ledger");
    return {tiers.data(), slots.data(), keys.data()};
  }
  TierTable tiers_;
  SlotRows slots_;
  KeyRow keys_;
};

// Experts of a choice [T, K]: the first of every token, then the second ones.
inline std::vector<int> by_rank(const Table& table, const Chosen& ids) {
  std::vector<int> order;
  for (size_t rank = 0; rank < ids.shape(1); ++rank)
    for (size_t token = 0; token < ids.shape(0); ++token) order.push_back(ids.data()[token * ids.shape(1) + rank]);
  table.require_experts(order);
  return order;
}

// A rule as Python hands it over: a `UseForecast` made for this table's keys, or the two functions of `PythonScorer`.
class AnyScorer {
 public:
  AnyScorer(const Table& table, nb::handle rule) {
    UseForecast* forecast = nullptr;
    if (nb::try_cast<UseForecast*>(rule, forecast, false) && forecast != nullptr) {
      if (forecast->num_keys() != table.num_layers() * table.num_experts())
        throw std::invalid_argument("table: the forecast is of another number of experts");
      native_.emplace(table, *forecast);
      return;
    }
    const nb::tuple both = nb::cast<nb::tuple>(rule);
    scores_ = both[0], top_ = both[1];
    python_.emplace(table.num_slots(), scores_, top_);
  }
  Scorer& get() { return native_ ? static_cast<Scorer&>(*native_) : *python_; }

 private:
  nb::object scores_, top_;
  std::optional<ForecastScorer> native_;
  std::optional<PythonScorer> python_;
};

}  // namespace hobbit
