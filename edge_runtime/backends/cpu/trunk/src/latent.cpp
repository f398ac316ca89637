// MLA over what it keeps compressed: W_k goes to the queries, W_v to what they see, so nothing is expanded for a token
// that is read. Formulas: trunk/oracles/latent.py.
#include <algorithm>
#include <cstring>

#include "trunk_steps.hpp"

namespace hobbit {

void DenseTrunk::per_head(const std::vector<std::shared_ptr<const DenseMatrix>>& matrices, Source from, size_t tokens,
                          size_t width, const Target& to, size_t to_width) {
  const bool quantised = matrices[0]->bits() != 32;
  QuantRows rows = rows_;
  rows.blocks = matrices[0]->blocks(), rows.block = matrices[0]->block();
  team_->run(matrices.size(), 1, [&](size_t head, size_t) {
    alignas(64) float values[kRowBlock][2 * kRows];
    const DenseMatrix& m = *matrices[head];
    const float* x = from.x + head * width;
    const size_t own = head * tokens;  // its first row of codes
    for (size_t t = 0; t < tokens && quantised; ++t) table_.quantize(x + t * from.stride, m.inputs(), rows, own + t);
    for (size_t panel = 0; panel < m.panels(); panel += 2) {
      const size_t panels = std::min<size_t>(2, m.panels() - panel), at = panel * kRows;
      const size_t n = std::min(2 * kRows, m.outputs() - at);
      for (size_t t = 0; t < tokens; t += kRowBlock) {
        const size_t count = std::min(kRowBlock, tokens - t);
        m.multiply(panel, panels, quantised ? x : x + t * from.stride, from.stride, rows, quantised ? own + t : 0, count,
                   values[0], 2 * kRows);
        for (size_t i = 0; i < count; ++i) table_.finish(values[i], n, to, t + i, head * to_width + at);
      }
    }
  });
}

// Puts what is kept of each token of the chunk behind the tokens before.
void DenseTrunk::keep_latent(const Layer& layer, const Cache& cache, Frame& frame) {
  const LatentForm& form = layer.form.latent;
  const size_t kept = form.kept(), rank = form.kv_rank;
  multiply(layer.matrix(kQkv), {normed_, model_.hidden}, frame.tokens, {inner_, kept, layer.vector(kLatentBias)});
  for_rows(frame.tokens, [&](size_t t) {
    const float* low = inner_ + t * kept;
    float* out = cache.keys + (frame.start + t) * kept;
    table_.norm(low, rank, layer.vector(kLatentNorm), nullptr, form.eps, false, out);
    std::memcpy(out + rank, low + rank, form.rope_dim * sizeof(float));
    rotate(layer.form, frame, t, out + rank);
  });
}

// Makes wide_ [T, heads * kept]: queries in the space of what is kept.
void DenseTrunk::latent_queries(const Layer& layer, Frame& frame) {
  const LatentForm& form = layer.form.latent;
  const size_t tokens = frame.tokens, d = model_.hidden, rank = form.query_rank, stride = widths_.projected;
  const size_t kept = form.kept(), width = form.heads * kept;
  const DenseMatrix& m = layer.matrix(kQuery);
  if (rank > 0) {
    for_rows(tokens, [&](size_t t) { take(layer.matrix(kQueryA), normed_ + t * d, t); });
    multiply(layer.matrix(kQueryA), {normed_, d}, tokens, {inner_, rank, layer.vector(kQueryABias)});
    for_rows(tokens, [&](size_t t) {
      float* low = inner_ + t * rank;
      table_.norm(low, rank, layer.vector(kQueryANorm), nullptr, form.eps, false, low);
      take(m, low, t);
    });
    multiply(m, {inner_, rank}, tokens, {projected_, stride});
  } else {
    for_rows(tokens, [&](size_t t) { take(m, normed_ + t * d, t); });
    multiply(m, {normed_, d}, tokens, {projected_, stride});
  }
  per_head(layer.key_up, {projected_, stride}, tokens, form.query(), {wide_, width}, kept);
  for_rows(tokens, [&](size_t t) {
    for (size_t head = 0; head < form.heads; ++head) {
      const float* from = projected_ + t * stride + head * form.query() + form.nope_dim;
      float* turned = wide_ + t * width + head * kept + form.kv_rank;
      std::memcpy(turned, from, form.rope_dim * sizeof(float));
      rotate(layer.form, frame, t, turned);
    }
  });
}

void DenseTrunk::latent(const Layer& layer, size_t index, Frame& frame) {
  const LatentForm& form = layer.form.latent;
  const size_t tokens = frame.tokens, out = form.heads * form.value_dim, stride = widths_.projected;
  const Cache& cache = frame.caches[index];
  keep_latent(layer, cache, frame);
  latent_queries(layer, frame);
  attend(layer, frame, {wide_, form.heads * form.kept(), cache.keys, cache.keys, form.heads, 1, form.kept(),
                        form.kv_rank, projected_, stride});
  per_head(layer.value_up, {projected_, stride}, tokens, form.kv_rank, {attended_, out}, form.value_dim);
  const DenseMatrix& o = layer.matrix(kO);
  for_rows(tokens, [&](size_t t) { take(o, attended_ + t * out, t); });
  into_stream(frame, layer.vector(kAttnOutNorm), layer.vector(kOBias),
              [&](const Target& to) { multiply(o, {attended_, out}, tokens, to); });
}

}  // namespace hobbit
