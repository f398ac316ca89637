// The eviction rule that is native itself.
#pragma once

#include "slot_table.hpp"
#include "use_forecast.hpp"

namespace hobbit {

class ForecastScorer : public Scorer {
 public:
  ForecastScorer(const SlotTable& table, UseForecast& forecast) : table_(table), forecast_(forecast) {}
  Scores all(int layer) override {
    Scores found{std::vector<double>(size_t(table_.num_slots())), {}};
    forecast_.score(table_.keys(), table_.num_slots(), layer, found.cores.data());
    return found;
  }
  double top(int, int, int) override { return 0; }  // it has no opinion on planes

 private:
  const SlotTable& table_;
  UseForecast& forecast_;
};

}  // namespace hobbit
