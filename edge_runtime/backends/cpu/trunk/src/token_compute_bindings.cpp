// Trunk and expert kernels for native code that runs the layers of one token (edge_runtime/experts/src/token_layer.cpp).
#include <nanobind/nanobind.h>

#include <string>

#include "experts.hpp"
#include "layer_ports.hpp"
#include "trunk.hpp"
#include "trunk_bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hobbit {
namespace {

class TokenCompute : public ComputePort {
 public:
  TokenCompute(nb::object trunk, nb::object kernels)
      : trunk_(nb::cast<DenseTrunk*>(trunk)), kernels_(nb::cast<ExpertKernels*>(kernels)), owners_(nb::make_tuple(trunk, kernels)) {
    if (trunk_->model().hidden != kernels_->shape().hidden) refuse("token compute: trunk and kernels of different models");
  }
  void close() {
    trunk_ = nullptr, kernels_ = nullptr;
    owners_ = nb::object();
  }

  size_t hidden() const override { return trunk().model().hidden; }
  LayerRow run_layer(size_t layer, void* frame, const float* expert_out) override {
    Frame& f = one_token(frame);
    check_layer_call(trunk(), layer, f);
    trunk_->run_layer(layer, f, expert_out);
    return row(frame);
  }
  LayerRow row(void* frame) override {
    const Frame& f = one_token(frame);
    return {f.x, f.router_norm ? f.router_x : f.x, f.router_logits};
  }
  const float* run_shared(size_t layer, void* frame) override {
    Frame& f = one_token(frame);
    if (layer >= trunk().layers() || trunk_->layer(layer).form.shared.width == 0) refuse("layer: no shared expert there");
    trunk_->run_shared(layer, f);
    return trunk_->layer(layer).form.shared_parallel ? nullptr : f.y;
  }
  void begin(const float* x, const int32_t* ids, const float* weights, size_t experts) override {
    kernels().begin({x, ids, weights, 1, experts});
  }
  void run_experts(int tier, const uint64_t* segments, const int32_t* experts, size_t count) override {
    kernels().run_experts(tier, segments, experts, count);
  }
  void so_far(float* out) override { kernels().so_far(out, 1); }
  void end(float* out) override { kernels().end(out, 1); }
  void expect(size_t layer, size_t coming, void* frame, const float* expert_out, float* out) override {
    if (coming < layer || coming >= trunk().layers() || !trunk_->layer(coming).form.sparse) refuse("expect: no router there");
    trunk_->expect(layer, coming, one_token(frame), expert_out, out);
  }
  void look_ahead(const float* x, const int32_t* layers, size_t count, float* logits) override {
    for (size_t i = 0; i < count; ++i)
      if (layers[i] < 0 || size_t(layers[i]) >= trunk().layers() || !trunk_->layer(size_t(layers[i])).form.sparse)
        refuse("look_ahead: layer " + std::to_string(layers[i]) + " has no router");
    trunk().look_ahead(x, 1, layers, count, logits);
  }

 private:
  DenseTrunk& trunk() const {
    if (trunk_ == nullptr) refuse("token compute: it was closed");
    return *trunk_;
  }
  ExpertKernels& kernels() const {
    if (kernels_ == nullptr) refuse("token compute: it was closed");
    return *kernels_;
  }
  Frame& one_token(void* frame) const {
    Frame& f = *static_cast<Frame*>(frame);
    check_frame(trunk(), f);
    if (f.tokens != 1) refuse("token compute: expected a chunk of one token");
    return f;
  }

  DenseTrunk* trunk_;
  ExpertKernels* kernels_;
  nb::object owners_;
};

}  // namespace

void bind_token_compute(nb::module_& m) {
  nb::class_<TokenCompute>(m, "TokenCompute")
      .def(nb::init<nb::object, nb::object>(), "trunk"_a, "kernels"_a)
      .def("port", [](TokenCompute& t) { return nb::capsule(static_cast<ComputePort*>(&t), kComputePort); })
      .def("close", &TokenCompute::close);
}

}  // namespace hobbit
