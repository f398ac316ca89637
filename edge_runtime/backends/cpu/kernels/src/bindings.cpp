// Python surface of the kernels: checks arrays, releases the GIL, forwards.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>

#include "encoder.hpp"
#include "experts.hpp"
#include "trunk_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using OutArray = nb::ndarray<nb::device::cpu>;

namespace {

template <class T> struct TypeName;
template <> struct TypeName<float> { static constexpr const char* value = "float32"; };
template <> struct TypeName<int32_t> { static constexpr const char* value = "int32"; };
template <> struct TypeName<uint64_t> { static constexpr const char* value = "uint64"; };

template <class A> std::string describe(const A& a) {
  const nb::dlpack::dtype t = a.dtype();
  const char* kind = t.code == 0 ? "int" : t.code == 1 ? "uint" : t.code == 2 ? "float" : "other";
  std::string s = std::string(kind) + std::to_string(int(t.bits)) + " [";
  for (size_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + "]";
}

template <class A> bool contiguous(const A& a) {
  if (a.size() == 0) return true;  // strides of an empty array mean nothing
  int64_t expected = 1;
  for (size_t i = a.ndim(); i-- > 0;) {
    if (a.shape(i) != 1 && a.stride(i) != expected) return false;
    expected *= int64_t(a.shape(i));
  }
  return true;
}

// `columns` 0 stands for a one-dimensional array.
template <class T, class A> void check(const char* where, const A& a, size_t columns) {
  const bool shape = columns ? a.ndim() == 2 && a.shape(1) == columns : a.ndim() == 1;
  if (shape && a.dtype() == nb::dtype<T>() && contiguous(a)) return;
  const std::string want = columns ? "[n, " + std::to_string(columns) + "]" : "[n]";
  throw nb::value_error((std::string(where) + ": expected C-contiguous " + TypeName<T>::value + " " + want + ", got " +
                         describe(a) + (contiguous(a) ? "" : " (not contiguous)")).c_str());
}

template <class T> const T* data(const Array& a) { return static_cast<const T*>(a.data()); }

hobbit::Batch batch(int tier, const Array& segments, const Array& starts, const Array& pairs) {
  check<uint64_t>("segments", segments, 4);
  check<int32_t>("starts", starts, 0);
  check<int32_t>("pairs", pairs, 0);
  const size_t count = segments.shape(0);
  if (starts.shape(0) != count + 1)
    throw nb::value_error(("starts: expected " + std::to_string(count + 1) + " entries for " + std::to_string(count) +
                           " experts, got " + std::to_string(starts.shape(0))).c_str());
  return {tier, data<uint64_t>(segments), data<int32_t>(starts), data<int32_t>(pairs), count, pairs.shape(0)};
}

void check_output(const hobbit::ExpertKernels& k, const Array& weights, const OutArray& out) {
  check<float>("weights", weights, k.shape().top_k);
  check<float>("out", out, k.shape().hidden);
  if (weights.shape(0) != out.shape(0))
    throw nb::value_error(("out: expected " + std::to_string(weights.shape(0)) + " rows as in weights, got " +
                           std::to_string(out.shape(0))).c_str());
}

hobbit::ExpertKernels::Choice choice(const hobbit::ExpertKernels& k, const Array& x, const Array& ids,
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

bool is_fp4(const std::string& codes) {
  if (codes != "linear" && codes != "fp4")
    throw nb::value_error(("codes: expected linear or fp4, got '" + codes + "'").c_str());
  return codes == "fp4";
}

hobbit::ExpertForm form(bool gated, const std::string& activation, bool bias, std::optional<double> limit, double alpha,
                        double up_offset, const std::string& codes) {
  const char* const names[] = {"silu", "gelu_tanh", "relu2"};
  const auto found = std::find(std::begin(names), std::end(names), activation);
  if (found == std::end(names))
    throw nb::value_error(("activation: expected silu, gelu_tanh or relu2, got '" + activation + "'").c_str());
  hobbit::ExpertForm f;
  f.gated = gated, f.bias = bias, f.fp4 = is_fp4(codes), f.activation = hobbit::Activation(found - names);
  if (limit) f.limit = float(*limit);
  f.alpha = float(alpha), f.up_offset = float(up_offset);
  return f;
}

hobbit::Source source(const std::string& dtype, const Array& rows) {
  const nb::dlpack::dtype got = rows.dtype();
  if (dtype == "f32" && got == nb::dtype<float>()) return hobbit::Source::f32;
  if (dtype == "bf16" && got == nb::dtype<uint16_t>()) return hobbit::Source::bf16;
  if (dtype == "f16" && got.code == 2 && got.bits == 16) return hobbit::Source::f16;
  throw nb::value_error(("add_rows: expected dtype 'f32' with float32, 'f16' with float16 or 'bf16' with uint16 rows, "
                         "got '" + dtype + "' with " + describe(rows)).c_str());
}

void add_bias(hobbit::ExpertEncoder& e, int matrix, const Array& values) {
  check<float>("add_bias", values, 0);
  e.add_bias(matrix, data<float>(values), values.shape(0));
}

void add_rows(hobbit::ExpertEncoder& e, int matrix, int64_t row_start, const Array& rows, const std::string& dtype) {
  const hobbit::Source from = source(dtype, rows);
  if (matrix < 0 || matrix > 2) throw nb::value_error("add_rows: matrix must be 0 (gate), 1 (up) or 2 (down)");
  if (row_start < 0) throw nb::value_error("add_rows: row_start must not be negative");
  const size_t cols = e.layout().cols(matrix);
  if (rows.ndim() != 2 || rows.shape(1) != cols || !contiguous(rows))
    throw nb::value_error(("add_rows: expected C-contiguous [n, " + std::to_string(cols) + "], got " +
                           describe(rows)).c_str());
  const size_t count = rows.shape(0);
  nb::gil_scoped_release release;
  e.add_rows(matrix, size_t(row_start), rows.data(), count, from);
}

nb::object segment(nb::handle self, int i, bool draft = false) {
  const auto& e = nb::cast<const hobbit::ExpertEncoder&>(self);
  const bool want_bf16 = i == -1;
  if (!draft && !e.finished()) throw nb::value_error("segment: expected finish() before segment()");
  if (i < -1 || i >= e.num_segments() || (want_bf16 && e.bf16().empty()))
    throw nb::value_error(("segment: expected 0.." + std::to_string(e.num_segments() - 1) +
                           (e.bf16().empty() ? " (bf16 was not asked for)" : " or -1 for bf16") + ", got " +
                           std::to_string(i)).c_str());
  const std::vector<uint8_t>& bytes = want_bf16 ? e.bf16() : e.segment(i);
  return nb::cast(nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(bytes.data(), {bytes.size()}, self));
}

}  // namespace

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

  using K = hobbit::ExpertKernels;
  nb::class_<K>(m, "ExpertKernels")
      .def("__init__",
           [](K* self, int64_t hidden, int64_t intermediate, int64_t top_k, int64_t max_tokens, int threads,
              const std::string& isa, bool gated, const std::string& activation, bool bias, std::optional<double> limit,
              double alpha, double up_offset, const std::string& codes,
              std::shared_ptr<hobbit::Team> team) {
             const auto size = [](int64_t v) { return v < 0 ? size_t(0) : size_t(v); };
             const hobbit::Shape shape{size(hidden), size(intermediate), size(top_k), size(max_tokens),
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
           })
      .def("quantize",
           [](K& k, const Array& x) {
             check<float>("x", x, k.shape().hidden);
             nb::gil_scoped_release release;
             k.quantize(data<float>(x), x.shape(0));
           },
           "x"_a)
      .def("run",
           [](K& k, int tier, const Array& segments, const Array& starts, const Array& pairs) {
             const hobbit::Batch b = batch(tier, segments, starts, pairs);
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
             const hobbit::Batch b = batch(tier, segments, starts, pairs);
             check_output(k, weights, out);
             if (weights.shape(0) != x.shape(0))
               throw nb::value_error(("weights: expected " + std::to_string(x.shape(0)) + " rows as in x, got " +
                                      std::to_string(weights.shape(0))).c_str());
             nb::gil_scoped_release release;
             k.forward(data<float>(x), x.shape(0), b, data<float>(weights), static_cast<float*>(out.data()));
           },
           "x"_a, "tier"_a, "segments"_a, "starts"_a, "pairs"_a, "weights"_a, "out"_a)
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
           "pairs"_a, "out"_a)
      .def("run_resident",
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

  using E = hobbit::ExpertEncoder;
  nb::class_<E>(m, "ExpertEncoder")
      .def("__init__",
           [](E* self, int layer, int expert, int64_t hidden, int64_t intermediate, int num_segments, bool bf16,
              int threads, const std::string& isa, bool gated, bool bias, const std::string& codes) {
             const auto size = [](int64_t v) { return v < 0 ? size_t(0) : size_t(v); };
             new (self) E(layer, expert, {size(hidden), size(intermediate), gated, bias, is_fp4(codes)}, num_segments, bf16, threads,
                          isa);
           },
           "layer"_a, "expert"_a, "hidden"_a, "intermediate"_a, "num_segments"_a, "bf16"_a = false, "threads"_a = 1,
           "isa"_a = "auto", nb::kw_only(), "gated"_a = true, "bias"_a = false, "codes"_a = "linear")
      .def("add_rows", &add_rows, "matrix"_a, "row_start"_a, "rows"_a, "dtype"_a)
      .def("add_bias", &add_bias, "matrix"_a, "values"_a)
      .def("finish", &E::finish)
      .def("segment", [](nb::handle self, int i) { return segment(self, i); }, "i"_a)
      .def("draft", [](nb::handle self) { return segment(self, 0, true); })
      .def("bf16", [](nb::handle self) { return segment(self, -1); })
      .def("errors", &E::errors)
      .def("reset", &E::reset, "layer"_a, "expert"_a);
}
