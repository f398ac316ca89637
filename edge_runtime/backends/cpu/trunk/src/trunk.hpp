// The dense part of a model on the CPU: norms, attention, dense networks, routers and head, a call a layer.
//
// A row's numbers do not depend on how many rows are computed with it, nor on threads or instruction set.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "frame.hpp"
#include "isa.hpp"
#include "layer.hpp"
#include "team.hpp"

namespace hobbit {

class DenseTrunk {
 public:
  // `layers` has the layers and the head behind them, of weights packed for the instruction set `isa`.
  // Throws std::invalid_argument where parts do not fit each other.
  DenseTrunk(const ModelForm& model, std::vector<Layer> layers, std::shared_ptr<Team> team, const std::string& isa,
             size_t max_tokens);

  static size_t scratch_bytes_for(const ModelForm& model, const std::vector<Layer>& layers, size_t threads,
                                  size_t max_tokens);
  size_t scratch_bytes() const { return scratch_.size() + attention_.size(); }
  size_t layers() const { return layers_.size() - 1; }
  const ModelForm& model() const { return model_; }
  const Layer& layer(size_t i) const { return layers_[i]; }
  size_t vocabulary() const { return layers_.back().matrix(kHead).outputs(); }
  void release_scratch();

  // `moe` float [T, D] is what the experts of the layer before gave; null: nothing.
  void run_layer(size_t layer, Frame& frame, const float* moe);
  void run_shared(size_t layer, Frame& frame);  // into frame.y
  void head(const Frame& frame, const float* moe, size_t first, size_t count, float* logits);
  // out float [T, D]: what would enter the router of layer `coming` if nothing came between it and layer - 1 but `moe`,
  // which the experts of layer - 1 gave.
  void expect(size_t layer, size_t coming, const Frame& frame, const float* moe, float* out);
  // out float [count, T, E]: routers of the layers `which`, applied to x float [T, D].
  void look_ahead(const float* x, size_t tokens, const int32_t* which, size_t count, float* out);

 private:
  // Numbers of a token in each part of the scratch.
  struct Widths {
    size_t normed, part, projected, attended, wide, inner, codes, scales;
    static Widths of(const ModelForm& model, const std::vector<Layer>& layers);
    size_t bytes(size_t tokens) const;
  };
  struct Source {  // rows that a product takes, quantised if its matrix is
    const float* x;
    size_t stride;
  };

  template <class Row> void for_rows(size_t tokens, Row row);
  void take(const DenseMatrix& m, const float* row, size_t t);  // quantises a row, where the matrix wants it
  void multiply(const DenseMatrix& m, Source from, size_t tokens, const Target& to);
  void join(const Layer& layer, float* resid, const float* moe, const float* parallel, float* room) const;
  void norm(const float* x, const float* gamma, const float* bias, float* out) const;  // of the residual stream
  void rms(const float* x, size_t n, const float* gamma, float* out) const;
  void attention(const Layer& layer, size_t index, Frame& frame);
  void place(const Layer& layer, const Cache& cache, Frame& frame, size_t t);
  void attend(const Layer& layer, const Cache& cache, const Frame& frame);
  void attend_rows(const Layer& layer, const Cache& cache, const Frame& frame, size_t group, size_t first,
                   size_t count, float* room);
  void mlp(const MlpForm& form, const DenseMatrix& up, const DenseMatrix& down, Source x, size_t tokens,
           const Target& to);
  // Runs a product whose output joins the residual stream, behind a norm if there is one.
  template <class Run> void into_stream(Frame& frame, const float* out_norm, const float* bias, Run product);

  const ModelForm model_;
  const std::vector<Layer> layers_;
  const std::shared_ptr<Team> team_;
  const DenseTable& table_;
  const KernelTable& forms_;
  const size_t max_tokens_;
  Widths widths_;
  Pages scratch_, attention_;
  size_t room_ = 0;  // numbers of a thread's part of attention_
  float *normed_, *part_, *projected_, *attended_, *wide_, *inner_;  // [max_tokens, width]
  QuantRows rows_{};
};

}  // namespace hobbit
