// Python surface of policies that native code asks: made in Python, asked through their port. Arrays by reference.
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <utility>

#include "arrays.hpp"
#include "cache_prior.hpp"
#include "hobbit.hpp"
#include "mobile.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using hobbit::Array;

nb::capsule port_of(hobbit::DeciderPort& decider) { return nb::capsule(&decider, hobbit::kDeciderPort); }

class CachePrior : public hobbit::CachePriorDecider {
 public:
  CachePrior(const hobbit::CachePriorRule& rule, Array<double, 1> ranges, Array<double, 1> tokens,
             std::vector<int> places, hobbit::Router& router)
      : CachePriorDecider(rule, checked(ranges, tokens, std::move(places), router), router), ranges_(ranges),
        tokens_(tokens) {}

 private:
  static hobbit::CachePriorState checked(Array<double, 1>& ranges, Array<double, 1>& tokens, std::vector<int> places,
                                         const hobbit::Router& router) {
    if (ranges.size() != places.size() || tokens.size() != places.size())
      throw std::invalid_argument("cache-prior: expected sums of every layer");
    for (const int place : places)
      if (place < -1 || place >= int(router.layers())) throw std::out_of_range("cache-prior: there is no such place");
    return {ranges.data(), tokens.data(), std::move(places)};
  }
  Array<double, 1> ranges_, tokens_;
};

class Mobile : public hobbit::MobileDecider {
 public:
  Mobile(const hobbit::MobileRule& rule, Array<int32_t, 2> rankings)
      : MobileDecider(rule, rankings.data(), rankings.shape(0), rankings.shape(1)), rankings_(rankings) {}

 private:
  Array<int32_t, 2> rankings_;
};

}  // namespace

void hobbit::bind_deciders(nb::module_& m) {
  nb::class_<HobbitDecider>(m, "HobbitDecider")
      .def("__init__",
           [](HobbitDecider* self, double t1, double t2, int low, int full) {
             new (self) HobbitDecider({t1, t2, low, full});
           },
           "t1"_a, "t2"_a, "low"_a, "full"_a)
      .def("port", [](HobbitDecider& d) { return port_of(d); });
  nb::class_<CachePrior>(m, "CachePriorDecider")
      .def("__init__",
           [](CachePrior* self, double bias, size_t keeps, int full, Array<double, 1> ranges, Array<double, 1> tokens,
              std::vector<int> places, hobbit::Router& router) {
             new (self) CachePrior({bias, keeps, full}, ranges, tokens, std::move(places), router);
           },
           nb::keep_alive<1, 8>(), "bias"_a, "keeps"_a, "full"_a, "ranges"_a.noconvert(), "tokens"_a.noconvert(),
           "places"_a, "router"_a)
      .def("port", [](CachePrior& d) { return port_of(d); });
  nb::class_<Mobile>(m, "MobileDecider")
      .def("__init__",
           [](Mobile* self, size_t little, int full, Array<int32_t, 2> rankings) {
             new (self) Mobile({little, full}, rankings);
           },
           "little"_a, "full"_a, "rankings"_a.noconvert())
      .def("port", [](Mobile& d) { return port_of(d); });
}
