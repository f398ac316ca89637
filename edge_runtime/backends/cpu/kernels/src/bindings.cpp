// Python surface of the kernels: teams, instruction sets, and what the other files bind.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "isa.hpp"
#include "team.hpp"
#include "trunk_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(_native, m) {
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const hobbit::KernelTable* t : hobbit::available_kernels()) names.emplace_back(t->name);
    return names;
  });

  m.def("processors_by_size", &hobbit::processors_by_size, "root"_a = "/sys/devices/system/cpu");

  nb::class_<hobbit::Team>(m, "Team")
      .def(nb::new_([](int threads) { return hobbit::make_team(threads); }), "threads"_a)
      .def_prop_ro("size", &hobbit::Team::size);
  hobbit::bind_trunk(m);
  hobbit::bind_experts(m);
  hobbit::bind_token_compute(m);
  hobbit::bind_encoder(m);
}
