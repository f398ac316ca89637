// Recurrences and short convolutions in place of attention. A head's state takes token after token, in order, so its
// numbers do not depend on how a text is cut into chunks. Formulas: trunk/oracles/.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "trunk_steps.hpp"

namespace hobbit {
namespace {

constexpr float kL2Eps = 1e-6f;  // of the norm of queries and keys, by the sum of squares

// A convolution's inputs: those kept of the tokens before, and the chunk's.
struct Window {
  const float *before, *x;
  size_t kept, width, stride;

  const float* row(size_t i) const { return i < kept ? before + i * width : x + (i - kept) * stride; }
};

float* in_slot(const Frame& frame, size_t slot, int64_t place) {
  return place < 0 ? nullptr : frame.state_slots[slot] + place;
}

}  // namespace

// Mixes the last tokens of each channel of x [T, stride] into out [T, width], and keeps what coming chunks need.
void DenseTrunk::convolve(const Layer& layer, size_t index, const Frame& frame, const float* x, size_t stride,
                          bool silu, float* out) {
  const MixerForm& form = layer.form.mixer;
  const size_t width = form.rule == Rule::convolution ? model_.hidden : form.channels(), kernel = form.kernel;
  const StatePlace& place = frame.state_places[index];
  const Window window{in_slot(frame, frame.state_slot, place.conv), x, kernel - 1, width, stride};
  for_rows(frame.tokens, [&](size_t t) {
    const float* rows[kMostTaps];
    for (size_t j = 0; j < kernel; ++j) rows[j] = window.row(t + j);
    table_.convolve(rows, layer.vector(kTaps), kernel, width, layer.vector(kTapsBias), silu, out + t * width);
  });
  for (const Stop& stop : frame.stops)
    for (size_t i = 0; i + 1 < kernel; ++i)
      std::memcpy(in_slot(frame, stop.slot, place.conv) + i * width, window.row(stop.tokens + i),
                  width * sizeof(float));
}

void DenseTrunk::convolution(const Layer& layer, size_t index, Frame& frame) {
  const size_t tokens = frame.tokens, d = model_.hidden, stride = widths_.projected;
  multiply(layer.matrix(kQkv), {normed_, d}, tokens, {projected_, stride, layer.vector(kQkvBias)});
  for_rows(tokens, [&](size_t t) {
    const float *before = projected_ + t * stride, *values = before + 2 * d;
    for (size_t i = 0; i < d; ++i) wide_[t * d + i] = before[i] * values[i];
  });
  convolve(layer, index, frame, wide_, d, false, inner_);
  const DenseMatrix& o = layer.matrix(kO);
  for_rows(tokens, [&](size_t t) {
    const float *after = projected_ + t * stride + d, *mixed = inner_ + t * d;
    float* row = attended_ + t * d;
    for (size_t i = 0; i < d; ++i) row[i] = after[i] * mixed[i];
    take(o, row, t);
  });
  into_stream(frame, layer.vector(kAttnOutNorm), layer.vector(kOBias),
              [&](const Target& to) { multiply(o, {attended_, d}, tokens, to); });
}

// A product with two matrices, one behind the other; `room` has the numbers between them.
void DenseTrunk::through(const DenseMatrix& a, const DenseMatrix& b, size_t tokens, float* room, const Target& to) {
  const size_t d = model_.hidden, low = a.outputs();
  for_rows(tokens, [&](size_t t) { take(a, normed_ + t * d, t); });
  multiply(a, {normed_, d}, tokens, {room, low});
  for_rows(tokens, [&](size_t t) { take(b, room + t * low, t); });
  multiply(b, {room, low}, tokens, to);
}

// Makes inner_ [T, rates]: what the state keeps, then how fast it learns.
void DenseTrunk::rates(const Layer& layer, size_t tokens) {
  const MixerForm& form = layer.form.mixer;
  const size_t d = model_.hidden, heads = form.value_heads, stride = form.rates();
  const bool kimi = form.rule == Rule::kimi_delta, mamba = form.rule == Rule::mamba2;
  const size_t decays = kimi ? form.values() : heads;
  const DenseMatrix& m = layer.matrix(kRates);
  for_rows(tokens, [&](size_t t) { take(m, normed_ + t * d, t); });
  multiply(m, {normed_, d}, tokens, {inner_ + (kimi ? decays : 0), stride});
  if (kimi) {
    through(layer.matrix(kForgetA), layer.matrix(kForgetB), tokens, attended_, {inner_, stride});
    through(layer.matrix(kGateA), layer.matrix(kGateB), tokens, attended_,
            {projected_ + form.channels(), widths_.projected});
  }
  for_rows(tokens, [&](size_t t) {
    float *kept = inner_ + t * stride, *learnt = kept + decays;
    if (!kimi && !mamba)  // learning rates come first
      for (size_t h = 0; h < heads; ++h) std::swap(kept[h], learnt[h]);
    table_.fade(kept, layer.vector(kStepBias), layer.vector(kDecay), decays, mamba ? learnt : nullptr);
    if (mamba) return;
    float raw[64];
    for (size_t h = 0; h < heads; h += 64) {  // 1 * sigmoid(x)
      const size_t n = std::min<size_t>(64, heads - h);
      std::copy_n(learnt + h, n, raw);
      std::fill_n(learnt + h, n, 1.0f);
      table_.gate(learnt + h, raw, n);
    }
  });
}

// Takes a head's state through the chunk; its outputs go to attended_ [T, values].
void DenseTrunk::run_head(const Layer& layer, size_t index, const Frame& frame, size_t head) {
  const MixerForm& form = layer.form.mixer;
  const size_t keys = form.keys(), values = form.values(), channels = form.channels(), stride = form.rates();
  const size_t size = form.key_dim * form.value_dim, shared = head / form.group() * form.key_dim;
  const bool kimi = form.rule == Rule::kimi_delta, mamba = form.rule == Rule::mamba2;
  const int64_t place = frame.state_places[index].state + int64_t(head * size);
  const float* from = in_slot(frame, frame.state_slot, place);
  size_t t = 0;
  for (const Stop& stop : frame.stops) {
    float* to = in_slot(frame, stop.slot, place);
    for (; t < stop.tokens; ++t, from = to) {
      const float *mixed = wide_ + t * channels, *rate = inner_ + t * stride;
      const float *q = mixed + shared, *k = q + keys, *v = mixed + 2 * keys + head * form.value_dim;
      Step step{rate + (kimi ? head * form.key_dim : head), kimi ? 1u : 0u, k, q, v,
                rate[(kimi ? values : form.value_heads) + head], true};
      if (mamba) {
        step.value = mixed + head * form.value_dim, step.key = mixed + values + shared;
        step.query = step.key + keys, step.corrects = false;
      }
      float* out = attended_ + t * values + head * form.value_dim;
      table_.recur(from, to, form.key_dim, form.value_dim, step, out);
      if (mamba)
        for (size_t i = 0; i < form.value_dim; ++i) out[i] += layer.vector(kSkip)[head] * step.value[i];
    }
  }
}

// Norms and gates a token's outputs; `row` is not needed afterwards.
void DenseTrunk::gate_output(const Layer& layer, float* row, const float* gates, float* out) const {
  const MixerForm& form = layer.form.mixer;
  const size_t values = form.values(), dim = form.value_dim;
  const float* gamma = layer.vector(kMixerNorm);
  const ExpertForm silu;
  const Hidden times_silu = hidden_of(forms_, silu);
  if (form.rule == Rule::mamba2) {
    const size_t group = values / form.key_heads;
    times_silu(silu, gates, row, values, out);
    for (size_t g = 0; g < values; g += group) rms(out + g, group, gamma + g, out + g);
    return;
  }
  const bool kimi = form.rule == Rule::kimi_delta;
  for (size_t h = 0; h < values; h += dim) rms(row + h, dim, gamma, (kimi ? out : row) + h);
  if (kimi)
    table_.gate(out, gates, values);
  else
    times_silu(silu, gates, row, values, out);
}

void DenseTrunk::recurrence(const Layer& layer, size_t index, Frame& frame) {
  const MixerForm& form = layer.form.mixer;
  const size_t tokens = frame.tokens, d = model_.hidden, stride = widths_.projected, values = form.values();
  const bool mamba = form.rule == Rule::mamba2;  // there the gates come first
  multiply(layer.matrix(kQkv), {normed_, d}, tokens, {projected_, stride});
  rates(layer, tokens);
  convolve(layer, index, frame, projected_ + (mamba ? values : 0), stride, true, wide_);
  if (!mamba) for_rows(tokens, [&](size_t t) {
    const float scale = 1.0f / std::sqrt(float(form.key_dim));
    float* row = wide_ + t * form.channels();
    for (size_t h = 0; h < 2 * form.key_heads; ++h, row += form.key_dim) {
      const float norm = 1.0f / std::sqrt(table_.dot(row, row, form.key_dim) + kL2Eps);
      table_.scale(row, form.key_dim, h < form.key_heads ? norm * scale : norm);
    }
  });
  if (tokens * form.value_heads * form.key_dim * form.value_dim < (1 << 15))  // waking the others would cost more
    for (size_t h = 0; h < form.value_heads; ++h) run_head(layer, index, frame, h);
  else
    team_->run(form.value_heads, 1, [&](size_t h, size_t) { run_head(layer, index, frame, h); });
  const DenseMatrix& o = layer.matrix(kO);
  for_rows(tokens, [&](size_t t) {
    float* row = wide_ + t * form.channels();  // what was convolved is not needed any more
    gate_output(layer, attended_ + t * values, projected_ + t * stride + (mamba ? 0 : form.channels()), row);
    take(o, row, t);
  });
  into_stream(frame, layer.vector(kAttnOutNorm), nullptr,
              [&](const Target& to) { multiply(o, {wide_, form.channels()}, tokens, to); });
}

}  // namespace hobbit
