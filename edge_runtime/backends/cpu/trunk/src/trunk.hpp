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
  size_t max_tokens() const { return max_tokens_; }
  size_t vocabulary() const { return layers_.back().matrix(kHead).outputs(); }
  void release_scratch();

  // `expert_out` float [T, D] is what the experts of the layer before gave; null: nothing.
  void run_layer(size_t layer, Frame& frame, const float* expert_out);
  void run_shared(size_t layer, Frame& frame);  // into frame.y
  void head(const Frame& frame, const float* expert_out, size_t first, size_t count, float* logits);
  // out float [T, D]: what would enter the router of layer `coming` if nothing came between it and layer - 1 but `expert_out`,
  // which the experts of layer - 1 gave.
  void expect(size_t layer, size_t coming, const Frame& frame, const float* expert_out, float* out);
  // out float [count, T, E]: routers of the layers `which`, applied to x float [T, D].
  void look_ahead(const float* x, size_t tokens, const int32_t* which, size_t count, float* out);

 private:
  // Numbers of a token in each part of the scratch.
  struct Widths {
    size_t normed, part, projected, attended, wide, inner, codes, scales;
    void add(const ModelForm& model, const MixerForm& form);
    void add(const LatentForm& form);
    void add(const DenseMatrix& matrix, size_t rows);  // of a token, quantised
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
  void join(const Layer& layer, float* resid, const float* expert_out, const float* parallel, float* room) const;
  void norm(const float* x, const float* gamma, const float* bias, float* out) const;  // of the residual stream
  void rms(const float* x, size_t n, const float* gamma, float* out) const;
  void attention(const Layer& layer, size_t index, Frame& frame);
  void place(const Layer& layer, const Cache& cache, Frame& frame, size_t t);
  // What attention reads and writes.
  struct Attended {
    const float* queries;  // [T, query_stride], heads side by side
    size_t query_stride;
    const float *keys, *values;  // [kv_heads, slots, dim], of values the first value_dim numbers
    size_t heads, kv_heads, dim, value_dim;
    float* out;  // [T, out_stride]
    size_t out_stride;
  };
  void attend(const Layer& layer, const Frame& frame, const Attended& a);
  void attend_rows(const Layer& layer, const Frame& frame, const Attended& a, size_t group, size_t first, size_t count,
                   float* room);
  // latent.cpp
  void latent(const Layer& layer, size_t index, Frame& frame);
  void keep_latent(const Layer& layer, const Cache& cache, Frame& frame);
  void latent_queries(const Layer& layer, Frame& frame);
  void rotate(const LayerForm& form, const Frame& frame, size_t t, float* head) const;
  // Multiplies each head's part of rows by a matrix of its own.
  void per_head(const std::vector<std::shared_ptr<const DenseMatrix>>& matrices, Source from, size_t tokens,
                size_t width, const Target& to, size_t to_width);
  // recurrent.cpp
  void recurrence(const Layer& layer, size_t index, Frame& frame);
  void convolution(const Layer& layer, size_t index, Frame& frame);
  void rates(const Layer& layer, size_t tokens);
  void through(const DenseMatrix& a, const DenseMatrix& b, size_t tokens, float* room, const Target& to);
  void convolve(const Layer& layer, size_t index, const Frame& frame, const float* x, size_t stride, bool silu,
                float* out);
  void run_head(const Layer& layer, size_t index, const Frame& frame, size_t head);
  void gate_output(const Layer& layer, float* row, const float* gates, float* out) const;
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
