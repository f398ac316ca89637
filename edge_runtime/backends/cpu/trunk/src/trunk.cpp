#include "trunk_steps.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "attention.hpp"

namespace hobbit {
namespace {

// Weights that a thread takes at once.
constexpr size_t kBlockBytes = 64 << 10;

}  // namespace

size_t DenseTrunk::scratch_bytes_for(const ModelForm& model, const std::vector<Layer>& layers, size_t threads,
                                     size_t max_tokens) {
  size_t room = 0;
  for (const Layer& layer : layers) room = std::max(room, attention_room(layer.form.key_dim()));
  return Widths::of(model, layers).bytes(max_tokens) + threads * room * sizeof(float);
}

DenseTrunk::DenseTrunk(const ModelForm& model, std::vector<Layer> layers, std::shared_ptr<Team> team,
                       const std::string& isa, size_t max_tokens)
    : model_(model),
      layers_(std::move(layers)),
      team_(std::move(team)),
      table_(find_dense(isa)),
      forms_(find_kernels(isa)),
      max_tokens_(max_tokens),
      widths_(Widths::of(model, layers_)),
      scratch_(widths_.bytes(max_tokens)),
      attention_(0) {
  if (layers_.empty() || !layers_.back().has(kHead)) throw std::invalid_argument("trunk: the head is missing");
  for (const Layer& layer : layers_) {
    check_layer(model_, layer);
    room_ = std::max(room_, attention_room(layer.form.key_dim()));
    const auto check_isa = [&](const std::shared_ptr<const DenseMatrix>& matrix) {
      if (matrix != nullptr && std::strcmp(matrix->isa(), table_.name) != 0)
        throw std::invalid_argument("trunk: a matrix is packed for another instruction set");
    };
    std::for_each(layer.matrices.begin(), layer.matrices.end(), check_isa);
    std::for_each(layer.key_up.begin(), layer.key_up.end(), check_isa);
    std::for_each(layer.value_up.begin(), layer.value_up.end(), check_isa);
  }
  attention_ = Pages(team_->size() * room_ * sizeof(float));
  uint8_t* at = scratch_.data();
  const auto floats = [&](size_t width) {
    float* found = reinterpret_cast<float*>(at);
    at += round_up(4 * max_tokens * width);
    return found;
  };
  normed_ = floats(widths_.normed), part_ = floats(widths_.part), projected_ = floats(widths_.projected);
  attended_ = floats(widths_.attended), wide_ = floats(widths_.wide), inner_ = floats(widths_.inner);
  rows_.scale = floats(widths_.scales), rows_.sum = reinterpret_cast<int32_t*>(floats(widths_.scales));
  rows_.q = reinterpret_cast<int8_t*>(at);
}

void DenseTrunk::release_scratch() {
  std::lock_guard<std::mutex> lock(team_->mutex());
  scratch_.release();
  attention_.release();
}

void DenseTrunk::take(const DenseMatrix& m, const float* row, size_t t) {
  if (m.bits() == 32) return;
  QuantRows rows = rows_;
  rows.blocks = m.blocks(), rows.block = m.block();
  table_.quantize(row, m.inputs(), rows, t);
}

void DenseTrunk::multiply(const DenseMatrix& m, Source from, size_t tokens, const Target& to) {
  QuantRows rows = rows_;
  rows.blocks = m.blocks(), rows.block = m.block();
  const size_t pairs = (m.panels() + 1) / 2;
  const size_t block = std::max<size_t>(1, kBlockBytes / (2 * m.panel_bytes()));
  team_->run(pairs, block, [&](size_t pair, size_t) {
    alignas(64) float values[kRowBlock][2 * kRows];
    const size_t panel = 2 * pair, panels = std::min<size_t>(2, m.panels() - panel);
    const size_t first = panel * kRows, n = std::min(2 * kRows, m.outputs() - first);
    for (size_t t = 0; t < tokens; t += kRowBlock) {
      const size_t count = std::min(kRowBlock, tokens - t);
      m.multiply(panel, panels, from.x, from.stride, rows, t, count, values[0], 2 * kRows);
      for (size_t i = 0; i < count; ++i) table_.finish(values[i], n, to, t + i, first);
    }
  });
}

void DenseTrunk::norm(const float* x, const float* gamma, const float* bias, float* out) const {
  table_.norm(x, model_.hidden, gamma, bias, model_.eps, model_.centred, out);
}

void DenseTrunk::rms(const float* x, size_t n, const float* gamma, float* out) const {
  table_.norm(x, n, gamma, nullptr, model_.eps, false, out);
}

// Adds what the layer before left to a row of the residual stream. `room` has D numbers.
void DenseTrunk::join(const Layer& layer, float* resid, const float* expert_out, const float* parallel, float* room) const {
  const size_t d = model_.hidden;
  if (!layer.form.joins) return;
  if (expert_out != nullptr || layer.form.joins_parallel) {
    const float* y = expert_out;
    if (y == nullptr) {
      std::fill_n(room, d, 0.0f);
      y = room;
    }
    if (layer.form.joins_parallel) {
      rms(y, d, layer.vector(kJoinExpertsNorm), room);
      table_.add(room, parallel, d, 1.0f);
      y = room;
    }
    if (layer.vector(kJoinOutNorm) != nullptr) {
      rms(y, d, layer.vector(kJoinOutNorm), room);
      y = room;
    }
    table_.add(resid, y, d, model_.residual_scale);
  }
  if (layer.vector(kJoinScale) != nullptr) table_.scale(resid, d, *layer.vector(kJoinScale));
}

void DenseTrunk::mlp(const MlpForm& form, const DenseMatrix& up, const DenseMatrix& down, Source x, size_t tokens,
                     const Target& to) {
  ExpertForm expert;
  expert.gated = form.gated, expert.activation = form.activation;
  const Hidden hidden = hidden_of(forms_, expert);
  const size_t wide = up.outputs(), width = form.width;
  for_rows(tokens, [&](size_t t) { take(up, x.x + t * x.stride, t); });
  multiply(up, x, tokens, {wide_, wide});
  for_rows(tokens, [&](size_t t) {
    const float* row = wide_ + t * wide;
    hidden(expert, row, form.gated ? row + width : row, width, inner_ + t * width);
    take(down, inner_ + t * width, t);
  });
  multiply(down, {inner_, width}, tokens, to);
}

void DenseTrunk::attention(const Layer& layer, size_t index, Frame& frame) {
  const size_t tokens = frame.tokens, d = model_.hidden, projected = widths_.projected, queries = layer.queries();
  const DenseMatrix &qkv = layer.matrix(kQkv), &o = layer.matrix(kO);
  const Cache& cache = frame.caches[index];
  multiply(qkv, {normed_, d}, tokens, {projected_, projected, layer.vector(kQkvBias)});
  for_rows(tokens, [&](size_t t) { place(layer, cache, frame, t); });
  attend(layer, frame, {projected_, projected, cache.keys, cache.values, layer.form.heads, layer.form.kv_heads,
                        layer.form.head_dim, layer.form.head_dim, attended_, queries});
  for_rows(tokens, [&](size_t t) {
    float* row = attended_ + t * queries;
    const float* gates = projected_ + t * projected + layer.projected() - queries;
    if (layer.form.output_gate) table_.gate(row, gates, queries);
    take(o, row, t);
  });
  into_stream(frame, layer.vector(kAttnOutNorm), layer.vector(kOBias),
              [&](const Target& to) { multiply(o, {attended_, queries}, tokens, to); });
}

void DenseTrunk::run_layer(size_t index, Frame& frame, const float* expert_out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  const Layer& layer = layers_[index];
  const LayerForm& form = layer.form;
  const size_t d = model_.hidden, tokens = frame.tokens;
  for_rows(tokens, [&](size_t t) {
    float *resid = frame.resid + t * d, *normed = normed_ + t * d;
    join(layer, resid, expert_out == nullptr ? nullptr : expert_out + t * d, frame.y + t * d, normed);
    if (!form.mixes()) return;
    norm(resid, layer.vector(kAttnNorm), layer.vector(kAttnNormBias), normed);
    take(layer.matrix(kQkv), normed, t);
  });
  if (form.heads > 0) attention(layer, index, frame);
  if (form.latent.heads > 0) latent(layer, index, frame);
  if (form.mixer.rule == Rule::convolution)
    convolution(layer, index, frame);
  else if (form.mixer.rule != Rule::none)
    recurrence(layer, index, frame);
  const bool has_dense = form.dense.width > 0;
  if (form.sparse || has_dense) for_rows(tokens, [&](size_t t) {
    const float* resid = frame.resid + t * d;
    float* x = frame.x + t * d;
    if (!form.router_norm) return norm(resid, layer.vector(kFfnNorm), layer.vector(kFfnNormBias), x);
    float* seen = frame.router_x + t * d;
    rms(resid, d, nullptr, seen);
    for (size_t i = 0; i < d; ++i) x[i] = seen[i] * layer.vector(kFfnNorm)[i];
  });
  if (form.sparse) {
    multiply(layer.matrix(kRouter), {form.router_norm ? frame.router_x : frame.x, d}, tokens,
             {frame.router_logits, model_.experts});
    return;
  }
  if (has_dense)
    into_stream(frame, layer.vector(kFfnOutNorm), nullptr, [&](const Target& to) {
      mlp(form.dense, layer.matrix(kDenseUp), layer.matrix(kDenseDown), {frame.x, d}, tokens, to);
    });
  if (layer.vector(kLayerScale) != nullptr) table_.scale(frame.resid, tokens * d, *layer.vector(kLayerScale));
}

void DenseTrunk::run_shared(size_t index, Frame& frame) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  const Layer& layer = layers_[index];
  const size_t d = model_.hidden, tokens = frame.tokens;
  const float* x = frame.x;
  if (layer.form.shared_parallel) {
    for_rows(tokens, [&](size_t t) { rms(frame.resid + t * d, d, layer.vector(kSharedNorm), normed_ + t * d); });
    x = normed_;
  }
  mlp(layer.form.shared, layer.matrix(kSharedUp), layer.matrix(kSharedDown), {x, d}, tokens, {frame.y, d});
  if (layer.form.shared_parallel)
    for_rows(tokens, [&](size_t t) { rms(frame.y + t * d, d, layer.vector(kSharedOutNorm), frame.y + t * d); });
  if (layer.vector(kSharedGate) == nullptr) return;
  for_rows(tokens, [&](size_t t) {
    float factor = 1.0f;
    const float gate = table_.dot(x + t * d, layer.vector(kSharedGate), d);
    table_.gate(&factor, &gate, 1);
    table_.scale(frame.y + t * d, d, factor);
  });
}

}  // namespace hobbit
