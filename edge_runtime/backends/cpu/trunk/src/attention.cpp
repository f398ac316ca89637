// Softmax attention over the cache: keys come in tiles at fixed places, so a row's sums do not depend on its chunk.
#include "attention.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "float_math.hpp"
#include "trunk.hpp"

namespace hobbit {

void DenseTrunk::rotate(const LayerForm& form, const Frame& frame, size_t t, float* head) const {
  if (form.rope < 0) return;
  const size_t half = form.rotated / 2, rope = size_t(form.rope);
  table_.rotate(head, frame.cos[rope] + t * half, frame.sin[rope] + t * half, half, form.rope_pairs);
}

// Norms and rotates a token's queries and keys, and puts keys and values behind those of the tokens before.
void DenseTrunk::place(const Layer& layer, const Cache& cache, Frame& frame, size_t t) {
  const LayerForm& form = layer.form;
  const size_t dim = form.head_dim, queries = layer.queries(), keys = layer.keys();
  float* q = projected_ + t * widths_.projected;
  float *k = q + queries, *v = form.shared_kv ? q + layer.projected() : k + keys;
  if (form.shared_kv) std::memcpy(v, k, keys * sizeof(float));
  if (layer.vector(kQNorm) != nullptr) {
    rms(q, queries, layer.vector(kQNorm), q);
    rms(k, keys, layer.vector(kKNorm), k);
  }
  if (form.clip > 0.0f) {
    table_.clip(q, queries + keys, form.clip);
    table_.clip(v, keys, form.clip);
  }
  const float* norms = layer.vector(kHeadNorms);
  for (size_t head = 0; head < form.heads + form.kv_heads; ++head) {
    float* at = q + head * dim;
    if (norms != nullptr && !form.norm_behind_rope) rms(at, dim, norms + head * dim, at);
    rotate(form, frame, t, at);
    if (norms != nullptr && form.norm_behind_rope) rms(at, dim, norms + head * dim, at);
  }
  const size_t slot = frame.start + t;
  for (size_t head = 0; head < form.kv_heads; ++head) {
    if (form.value_norm) rms(v + head * dim, dim, nullptr, v + head * dim);
    std::memcpy(cache.keys + (head * frame.slots + slot) * dim, k + head * dim, dim * sizeof(float));
    std::memcpy(cache.values + (head * frame.slots + slot) * dim, v + head * dim, dim * sizeof(float));
  }
}

void DenseTrunk::attend(const Layer& layer, const Frame& frame, const Attended& a) {
  const size_t rows = frame.tokens * (a.heads / a.kv_heads), threads = team_->size();
  // few key heads: rows are cut finer, so that every thread has some
  const size_t each = std::min(kQueryRows, std::max<size_t>(1, (rows * a.kv_heads + threads - 1) / threads));
  const size_t blocks = (rows + each - 1) / each, items = blocks * a.kv_heads;
  float* rooms = reinterpret_cast<float*>(attention_.data());
  const auto item = [&](size_t i, size_t thread) {
    const size_t first = i % blocks * each;
    attend_rows(layer, frame, a, i / blocks, first, std::min(each, rows - first), rooms + thread * room_);
  };
  const size_t seen = frame.start + frame.tokens;
  if (rows * a.kv_heads * seen * a.dim < (1 << 15)) {  // waking the others would cost more
    for (size_t i = 0; i < items; ++i) item(i, 0);
    return;
  }
  team_->run(items, 1, item);
}

// Queries first .. first + count - 1 of a key head, counted token by token and head by head.
void DenseTrunk::attend_rows(const Layer& layer, const Frame& frame, const Attended& a, size_t group, size_t first,
                             size_t count, float* room) {
  const LayerForm& form = layer.form;
  const size_t dim = a.dim, width = a.value_dim, padded = padded_dim(dim), share = a.heads / a.kv_heads;
  float *q = room, *sums = q + kQueryRows * padded, *tile = sums + kQueryRows * padded;
  float *scores = tile + kTile * padded, *zeros = scores + kQueryRows * kTile;
  const float *keys = a.keys + group * frame.slots * dim, *values = a.values + group * frame.slots * dim;
  float top[kQueryRows], total[kQueryRows], factor[kQueryRows];
  size_t from[kQueryRows], to[kQueryRows], begin = std::numeric_limits<size_t>::max(), end = 0;
  std::fill_n(zeros, padded, 0.0f);
  std::fill_n(sums, count * width, 0.0f);
  std::fill_n(scores, count * kTile, 0.0f);
  for (size_t r = 0; r < count; ++r) {
    const size_t t = (first + r) / share, head = group * share + (first + r) % share;
    const float* query = a.queries + t * a.query_stride + head * dim;
    for (size_t c = 0; c < dim; ++c) q[r * dim + c] = query[c] * form.score_scale;
    top[r] = -std::numeric_limits<float>::infinity(), total[r] = 0.0f;
    to[r] = frame.start + t + 1;
    from[r] = form.window == 0 || to[r] < form.window ? 0 : to[r] - form.window;
    begin = std::min(begin, from[r]), end = std::max(end, to[r]);
  }
  for (size_t at = begin / kTile * kTile; at < end; at += kTile) {
    const size_t there = std::min(kTile, end - at), panels = there > kRows ? 2 : 1;
    for (size_t p = 0; p < panels; ++p) {
      const float* rows[kRows];
      for (size_t i = 0; i < kRows; ++i)
        rows[i] = p * kRows + i < there ? keys + (at + p * kRows + i) * dim : zeros;
      table_.transpose(rows, dim, tile + p * kRows * dim);
    }
    table_.floats(tile, dim, panels, q, dim, count, scores, kTile);
    for (size_t r = 0; r < count; ++r) {
      const size_t low = std::max(from[r], at) - at, high = std::min(std::max(to[r], at), at + kTile) - at;
      factor[r] = 1.0f;
      if (low < high)
        factor[r] = table_.soften(scores + r * kTile, low, high, top + r, total + r);
      else
        std::fill_n(scores + r * kTile, kTile, 0.0f);
    }
    table_.weigh(values + at * dim, dim, there, scores, factor, count, width, sums);
  }
  const float* sinks = layer.vector(kSinks);
  for (size_t r = 0; r < count; ++r) {
    const size_t t = (first + r) / share, head = group * share + (first + r) % share;
    float scale = 1.0f;
    if (sinks != nullptr) {  // it joins the sum, and what it would add is dropped
      const float highest = std::max(top[r], sinks[head]), down = top[r] - highest, sink = sinks[head] - highest;
      scale = exp_poly(down != down ? 0.0f : down);  // a nan is in the total already
      total[r] = total[r] * scale + exp_poly(sink != sink ? 0.0f : sink);
    }
    scale /= total[r];
    float* out = a.out + t * a.out_stride + head * width;
    for (size_t c = 0; c < width; ++c) out[c] = sums[r * width + c] * scale;
  }
}

}  // namespace hobbit
