// Python surface of the expert kernels: checks arrays, releases the GIL, forwards.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>

#include "arrays.hpp"
#include "experts.hpp"

using namespace nanobind::literals;

namespace hobbit {
namespace {

Batch batch(int tier, const Array& segments, const Array& starts, const Array& pairs) {
  check<uint64_t>("segments", segments, 4);
  check<int32_t>("starts", starts, 0);
  check<int32_t>("pairs", pairs, 0);
  const size_t count = segments.shape(0);
  if (starts.shape(0) != count + 1)
    throw nb::value_error(("starts: expected " + std::to_string(count + 1) + " entries for " + std::to_string(count) +
                           " experts, got " + std::to_string(starts.shape(0))).c_str());
  return {tier, data<uint64_t>(segments), data<int32_t>(starts), data<int32_t>(pairs), count, pairs.shape(0)};
}

void check_output(const ExpertKernels& k, const Array& weights, const OutArray& out) {
  check<float>("weights", weights, k.shape().top_k);
  check<float>("out", out, k.shape().hidden);
  if (weights.shape(0) != out.shape(0))
    throw nb::value_error(("out: expected " + std::to_string(weights.shape(0)) + " rows as in weights, got " +
                           std::to_string(out.shape(0))).c_str());
}

ExpertKernels::Choice choice(const ExpertKernels& k, const Array& x, const Array& ids,
                                       const Array& weights, int64_t num_experts) {
  check<float>("x", x, k.shape().hidden);
  check<int32_t>("ids", ids, k.shape().top_k);
  check<float>("weights", weights, k.shape().top_k);
  if (ids.shape(0) != x.shape(0) || weights.shape(0) != x.shape(0))
    throw nb::value_error(("ids, weights: expected " + std::to_string(x.shape(0)) + " rows as in x, got " +
                           std::to_string(ids.shape(0)) + " and " + std::to_string(weights.shape(0))).c_str());
  if (num_experts < 1 || num_experts > (1 << 20))
    throw nb::value_error(("num_experts: expected 1..1048576, got " + std::to_string(num_experts)).c_str());
  return {data<float>(x), data<int32_t>(ids), data<float>(weights), x.shape(0), size_t(num_experts)};
}

ExpertForm form(bool gated, const std::string& activation, bool bias, std::optional<double> limit, double alpha,
                        double up_offset, const std::string& codes) {
  const char* const names[] = {"silu", "gelu_tanh", "relu2"};
  const auto found = std::find(std::begin(names), std::end(names), activation);
  if (found == std::end(names))
    throw nb::value_error(("activation: expected silu, gelu_tanh or relu2, got '" + activation + "'").c_str());
  ExpertForm f;
  f.gated = gated, f.bias = bias, f.fp4 = is_fp4(codes), f.activation = Activation(found - names);
  if (limit) f.limit = float(*limit);
  f.alpha = float(alpha), f.up_offset = float(up_offset);
  return f;
}

using K = ExpertKernels;
using Class = nb::class_<K>;

void bind_making(Class& kernels) {
  kernels
      .def("__init__",
           [](K* self, int64_t hidden, int64_t intermediate, int64_t top_k, int64_t max_tokens, int threads,
              const std::string& isa, bool gated, const std::string& activation, bool bias, std::optional<double> limit,
              double alpha, double up_offset, const std::string& codes,
              std::shared_ptr<Team> team) {
             const auto size = [](int64_t v) { return v < 0 ? size_t(0) : size_t(v); };
             const Shape shape{size(hidden), size(intermediate), size(top_k), size(max_tokens),
                                       form(gated, activation, bias, limit, alpha, up_offset, codes)};
             if (team != nullptr)
               new (self) K(shape, std::move(team), isa);
             else
               new (self) K(shape, threads, isa);
           },
           "hidden"_a, "intermediate"_a, "top_k"_a, "max_tokens"_a, "threads"_a = 1, "isa"_a = "auto", nb::kw_only(),
           "gated"_a = true, "activation"_a = "silu", "bias"_a = false, "limit"_a = nb::none(), "alpha"_a = 1.0,
           "up_offset"_a = 0.0, "codes"_a = "linear", "team"_a = nb::none())
      .def_prop_ro("isa", [](const K& k) { return std::string(k.isa()); })
      .def_prop_ro("threads", &K::threads)
      .def_static("scratch_bytes_for",
                  [](size_t hidden, size_t intermediate, size_t top_k, size_t max_tokens) {
                    return K::scratch_bytes_for({hidden, intermediate, top_k, max_tokens});
                  },
                  "hidden"_a, "intermediate"_a, "top_k"_a, "max_tokens"_a)
      .def_prop_ro("scratch_bytes", &K::scratch_bytes)
      .def("release_scratch",
           [](K& k) {
             nb::gil_scoped_release release;
             k.release_scratch();
           });
}

// A layer in one call, or quantize, run for each tier, combine.
void bind_batches(Class& kernels) {
  kernels
      .def("quantize",
           [](K& k, const Array& x) {
             check<float>("x", x, k.shape().hidden);
             nb::gil_scoped_release release;
             k.quantize(data<float>(x), x.shape(0));
           },
           "x"_a)
      .def("run",
           [](K& k, int tier, const Array& segments, const Array& starts, const Array& pairs) {
             const Batch b = batch(tier, segments, starts, pairs);
             nb::gil_scoped_release release;
             k.run(b);
           },
           "tier"_a, "segments"_a, "starts"_a, "pairs"_a)
      .def("combine",
           [](K& k, const Array& weights, const OutArray& out) {
             check_output(k, weights, out);
             nb::gil_scoped_release release;
             k.combine(data<float>(weights), weights.shape(0), static_cast<float*>(out.data()));
           },
           "weights"_a, "out"_a)
      .def("forward",
           [](K& k, const Array& x, int tier, const Array& segments, const Array& starts, const Array& pairs,
              const Array& weights, const OutArray& out) {
             check<float>("x", x, k.shape().hidden);
             const Batch b = batch(tier, segments, starts, pairs);
             check_output(k, weights, out);
             if (weights.shape(0) != x.shape(0))
               throw nb::value_error(("weights: expected " + std::to_string(x.shape(0)) + " rows as in x, got " +
                                      std::to_string(weights.shape(0))).c_str());
             nb::gil_scoped_release release;
             k.forward(data<float>(x), x.shape(0), b, data<float>(weights), static_cast<float*>(out.data()));
           },
           "x"_a, "tier"_a, "segments"_a, "starts"_a, "pairs"_a, "weights"_a, "out"_a);
}

// A layer whose experts run in whatever order they come: begin, run_experts for each that came, end.
void bind_choices(Class& kernels) {
  kernels
      .def("begin",
           [](K& k, const Array& x, const Array& ids, const Array& weights, int64_t num_experts) {
             const K::Choice p = choice(k, x, ids, weights, num_experts);
             nb::gil_scoped_release release;
             k.begin(p);
           },
           "x"_a, "ids"_a, "weights"_a, "num_experts"_a)
      .def("run_experts",
           [](K& k, int tier, const Array& segments, const Array& experts) {
             check<uint64_t>("segments", segments, 4);
             check<int32_t>("experts", experts, 0);
             if (segments.shape(0) != experts.shape(0))
               throw nb::value_error(("experts: expected " + std::to_string(segments.shape(0)) +
                                      " as in segments, got " + std::to_string(experts.shape(0))).c_str());
             nb::gil_scoped_release release;
             k.run_experts(tier, data<uint64_t>(segments), data<int32_t>(experts), experts.shape(0));
           },
           "tier"_a, "segments"_a, "experts"_a)
      .def("so_far",
           [](K& k, const OutArray& out) {
             check<float>("out", out, k.shape().hidden);
             nb::gil_scoped_release release;
             k.so_far(static_cast<float*>(out.data()), out.shape(0));
           },
           "out"_a)
      .def("end",
           [](K& k, const OutArray& out) {
             check<float>("out", out, k.shape().hidden);
             nb::gil_scoped_release release;
             k.end(static_cast<float*>(out.data()), out.shape(0));
           },
           "out"_a)
      .def("outputs",
           [](K& k, const Array& pairs, const OutArray& out) {
             check<int32_t>("pairs", pairs, 0);
             check<float>("out", out, k.shape().hidden);
             if (out.shape(0) != pairs.shape(0)) throw nb::value_error("out: expected as many rows as pairs");
             k.outputs(data<int32_t>(pairs), pairs.shape(0), static_cast<float*>(out.data()));
           },
           "pairs"_a, "out"_a);
}

// A layer all of whose experts are in slots.
void bind_resident(Class& kernels) {
  kernels.def("run_resident",
           [](K& k, const Array& x, const Array& ids, const Array& weights, int tier, const Array& addresses,
              const Array& slots, const OutArray& out) {
             check<uint64_t>("addresses", addresses, 4);
             check<int32_t>("slots", slots, 0);
             check<float>("out", out, k.shape().hidden);
             const K::Choice p = choice(k, x, ids, weights, int64_t(slots.shape(0)));
             if (out.shape(0) != p.tokens) throw nb::value_error("out: expected as many rows as x");
             nb::gil_scoped_release release;
             k.run_resident(p, tier, data<uint64_t>(addresses), addresses.shape(0), data<int32_t>(slots),
                            static_cast<float*>(out.data()));
           },
           "x"_a, "ids"_a, "weights"_a, "tier"_a, "addresses"_a, "slots"_a, "out"_a);
}

}  // namespace

void bind_experts(nb::module_& m) {
  Class kernels(m, "ExpertKernels");
  bind_making(kernels);
  bind_batches(kernels);
  bind_choices(kernels);
  bind_resident(kernels);
}

}  // namespace hobbit
