// How much a token takes of the scratch, from the layers alone.
#include <algorithm>

#include "trunk_steps.hpp"

namespace hobbit {
namespace {

size_t padded(const DenseMatrix& m) { return m.bits() == 32 ? 0 : m.blocks() * m.block(); }

}  // namespace

DenseTrunk::Widths DenseTrunk::Widths::of(const ModelForm& model, const std::vector<Layer>& layers) {
  Widths w{model.hidden, model.hidden, 0, 0, 0, 0, 0, 0};
  for (const Layer& layer : layers) {
    w.projected = std::max(w.projected, layer.projected() + (layer.form.shared_kv ? layer.keys() : 0));
    w.attended = std::max(w.attended, layer.queries());
    w.add(model, layer.form.mixer);
    w.add(layer.form.latent);
    for (const MlpForm* form : {&layer.form.dense, &layer.form.shared}) {
      w.wide = std::max(w.wide, form->width * (form->gated ? 2 : 1));
      w.inner = std::max(w.inner, form->width);
    }
    for (const auto& matrix : layer.matrices) {
      if (matrix != nullptr) w.add(*matrix, 1);
    }
    for (const auto* heads : {&layer.key_up, &layer.value_up})
      if (!heads->empty()) w.add(*heads->front(), heads->size());
  }
  return w;
}

void DenseTrunk::Widths::add(const ModelForm& model, const MixerForm& form) {
  if (form.rule == Rule::none) return;
  const bool short_one = form.rule == Rule::convolution;
  projected = std::max(projected, short_one ? 3 * model.hidden : form.channels() + form.values());
  attended = std::max(attended, short_one ? model.hidden : form.values());
  wide = std::max(wide, short_one ? model.hidden : form.channels());
  inner = std::max(inner, short_one ? model.hidden : form.rates());
}

void DenseTrunk::Widths::add(const LatentForm& form) {
  projected = std::max(projected, form.heads * std::max(form.query(), form.kv_rank));
  attended = std::max(attended, form.heads * form.value_dim);
  wide = std::max(wide, form.heads * form.kept());
  inner = std::max(inner, form.heads == 0 ? 0 : std::max(form.kept(), form.query_rank));
}

void DenseTrunk::Widths::add(const DenseMatrix& matrix, size_t rows) {
  if (matrix.bits() == 32) return;
  codes = std::max(codes, rows * padded(matrix));
  scales = std::max(scales, rows * matrix.blocks());
}

size_t DenseTrunk::Widths::bytes(size_t tokens) const {
  size_t total = round_up(tokens * codes);
  for (size_t width : {normed, part, projected, attended, wide, inner, scales, scales})
    total += round_up(4 * tokens * width);
  return total;
}

}  // namespace hobbit
