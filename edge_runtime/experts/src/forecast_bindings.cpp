// Python surface of the forecast of uses; the GIL is kept.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "use_forecast.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Tiers = nb::ndarray<const uint8_t, nb::shape<-1>, nb::c_contig, nb::device::cpu>;
using Keys = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Experts = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Row = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require_keys(const hobbit::UseForecast& forecast, const Keys& keys, int64_t least) {
  for (size_t i = 0; i < keys.shape(0); ++i)
    if (keys.data()[i] < least || keys.data()[i] >= forecast.num_keys())
      throw std::out_of_range("use forecast: there is no key " + std::to_string(keys.data()[i]));
}

}  // namespace

void bind_use_forecast(nb::module_& m) {
  using Forecast = hobbit::UseForecast;
  nb::class_<Forecast>(m, "UseForecast")
      .def("__init__",
           [](Forecast* self, int num_layers, int num_experts, int top_k, double half_life, int memory) {
             if (num_layers < 1 || num_experts < 1 || top_k < 1 || memory < 1)
               throw std::invalid_argument("use forecast: layers, experts, top k and memory must be positive");
             new (self) Forecast(num_layers, num_experts, top_k, half_life, memory);
           },
           "num_layers"_a, "num_experts"_a, "top_k"_a, "half_life"_a, "memory"_a)
      .def("begin_pass", &Forecast::begin_pass, "num_tokens"_a)
      .def("use",
           [](Forecast& f, const Keys& keys) {
             require_keys(f, keys, 0);
             f.use(keys.data(), int64_t(keys.shape(0)));
           },
           "keys"_a)
      .def("use_in_order",
           [](Forecast& f, int layer, const Tiers& tiers, const Experts& experts) {
             if (layer < 0 || layer >= f.num_layers()) throw std::out_of_range("use forecast: there is no such layer");
             if (int(tiers.shape(0)) != f.num_experts())
               throw std::invalid_argument("use forecast: a tier for each expert");
             for (size_t i = 0; i < experts.size(); ++i)
               if (experts.data()[i] < 0 || experts.data()[i] >= f.num_experts())
                 throw std::out_of_range("use forecast: there is no expert " + std::to_string(experts.data()[i]));
             f.use_in_order(layer, tiers.data(), experts.data(), int64_t(experts.shape(0)), int64_t(experts.shape(1)));
           },
           "layer"_a, "tiers"_a, "experts"_a)
      .def("score",
           [](Forecast& f, const Keys& keys, int layer, Row scores) {
             require_keys(f, keys, -1);
             if (layer < 0 || layer >= f.num_layers()) throw std::out_of_range("use forecast: there is no such layer");
             if (scores.shape(0) != keys.shape(0)) throw std::invalid_argument("use forecast: a score for each key");
             f.score(keys.data(), int64_t(keys.shape(0)), layer, scores.data());
           },
           "keys"_a, "layer"_a, "scores"_a);
}
