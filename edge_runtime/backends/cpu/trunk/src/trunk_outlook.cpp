// What reads the residual stream and leaves it as it is: the head, the state expected at a coming layer, and the scores
// of coming routers.
#include <cstring>

#include "trunk_steps.hpp"

namespace hobbit {

void DenseTrunk::head(const Frame& frame, const float* expert_out, size_t first, size_t count, float* logits) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  const Layer& layer = layers_.back();
  const DenseMatrix& head = layer.matrix(kHead);
  const size_t d = model_.hidden;
  for_rows(count, [&](size_t i) {
    const size_t t = first + i;
    float *resid = part_ + i * d, *normed = normed_ + i * d;  // the stream itself stays as it is
    std::memcpy(resid, frame.resid + t * d, d * sizeof(float));
    join(layer, resid, expert_out == nullptr ? nullptr : expert_out + t * d, frame.y + t * d, normed);
    norm(resid, layer.vector(kAttnNorm), layer.vector(kAttnNormBias), normed);
    take(head, normed, i);
  });
  multiply(head, {normed_, d}, count,
           {logits, head.outputs(), layer.vector(kHeadBias), model_.logit_scale, model_.softcap});
}

void DenseTrunk::expect(size_t index, size_t coming, const Frame& frame, const float* expert_out, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  const size_t d = model_.hidden;
  const Layer &next = layers_[index], &asked = layers_[coming];
  for_rows(frame.tokens, [&](size_t t) {
    float *resid = part_ + t * d, *x = out + t * d;  // the stream itself stays as it is
    std::memcpy(resid, frame.resid + t * d, d * sizeof(float));
    join(next, resid, expert_out == nullptr ? nullptr : expert_out + t * d, frame.y + t * d, normed_ + t * d);
    if (asked.form.router_norm) return rms(resid, d, nullptr, x);
    norm(resid, asked.vector(kFfnNorm), asked.vector(kFfnNormBias), x);
  });
}

void DenseTrunk::look_ahead(const float* x, size_t tokens, const int32_t* which, size_t count, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex());
  for (size_t i = 0; i < count; ++i)
    multiply(layers_[size_t(which[i])].matrix(kRouter), {x, model_.hidden}, tokens,
             {out + i * tokens * model_.experts, model_.experts});
}

}  // namespace hobbit
