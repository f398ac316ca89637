// Runs a small model's dense part on every instruction set of the machine and prints a checksum of its logits, so that
// run.sh can compare machines bit for bit. Exit 1 if two instruction sets of one machine differ.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "trunk.hpp"

namespace {

using namespace hobbit;
constexpr size_t kHidden = 96, kExperts = 6, kVocabulary = 83, kTokens = 41, kSlots = 64;

struct Numbers {  // the same everywhere
  uint32_t state = 7;
  uint32_t bits() { return (state = state * 1664525u + 1013904223u) >> 8; }
  float next() { return float(int32_t(bits()) - (1 << 23)) / float(1 << 23); }
  std::vector<float> floats(size_t n) {
    std::vector<float> out(n);
    for (float& v : out) v = next();
    return out;
  }
};

std::shared_ptr<DenseMatrix> matrix(Numbers& n, size_t outputs, size_t inputs, int bits, size_t block, const char* isa) {
  auto made = std::make_shared<DenseMatrix>(outputs, inputs, bits, block, isa);
  if (bits == 32) {
    made->put_floats(0, inputs, n.floats(outputs * inputs).data());
    return made;
  }
  const size_t blocks = made->blocks(), packed = block * size_t(bits) / 8;
  std::vector<uint8_t> codes(outputs * blocks * packed);
  for (uint8_t& c : codes) c = uint8_t(n.bits());
  std::vector<float> scales = n.floats(outputs * blocks);
  for (float& s : scales) s *= bits == 8 ? 0.01f : 0.15f;
  made->put_codes(0, outputs, codes.data(), scales.data());
  return made;
}

Layer layer(Numbers& n, int bits, bool joins, const char* isa) {
  Layer l;
  LayerForm& f = l.form;
  f.joins = joins, f.heads = 6, f.kv_heads = 2, f.head_dim = 20, f.rope = 0, f.rotated = 16, f.rope_pairs = joins;
  f.window = joins ? 9 : 0, f.score_scale = 0.2f, f.output_gate = joins, f.sparse = true;
  f.shared.width = 48, f.shared.activation = joins ? Activation::gelu_tanh : Activation::silu;
  for (Vector v : {kAttnNorm, kFfnNorm, kSharedGate}) l.vectors[v] = n.floats(kHidden);
  l.vectors[kHeadNorms] = n.floats(l.queries() + l.keys()), l.vectors[kQkvBias] = n.floats(l.projected());
  if (joins) l.vectors[kSinks] = n.floats(f.heads);
  l.matrices[kQkv] = matrix(n, l.projected(), kHidden, bits, 32, isa);
  l.matrices[kO] = matrix(n, kHidden, l.queries(), bits, 16, isa);
  l.matrices[kRouter] = matrix(n, kExperts, kHidden, 32, 0, isa);
  l.matrices[kSharedUp] = matrix(n, 96, kHidden, bits, 32, isa);
  l.matrices[kSharedDown] = matrix(n, kHidden, 48, bits, 16, isa);
  return l;
}

// The parts of a sparse layer that has another kind of attention.
void put_rest(Layer& l, Numbers& n, const char* isa) {
  l.form.joins = l.form.sparse = true;
  for (Vector v : {kAttnNorm, kFfnNorm}) l.vectors[v] = n.floats(kHidden);
  l.matrices[kRouter] = matrix(n, kExperts, kHidden, 32, 0, isa);
}

Layer recurrent(Numbers& n, int bits, Rule rule, const char* isa) {
  Layer l;
  MixerForm& f = l.form.mixer;
  f.rule = rule, f.kernel = 4, f.key_heads = f.value_heads = 3, f.key_dim = f.value_dim = 36;
  if (rule != Rule::kimi_delta) f.value_heads = 6, f.value_dim = 84;
  put_rest(l, n, isa);
  const bool kimi = rule == Rule::kimi_delta, mamba = rule == Rule::mamba2, short_one = rule == Rule::convolution;
  const size_t channels = short_one ? kHidden : f.channels(), decays = kimi ? f.values() : f.value_heads;
  l.vectors[kTaps] = n.floats(4 * channels), l.vectors[kTapsBias] = n.floats(channels);
  const size_t out = short_one ? kHidden : f.values();
  l.matrices[kQkv] = matrix(n, short_one ? 3 * kHidden : channels + (kimi ? 0 : out), kHidden, bits, 32, isa);
  l.matrices[kO] = matrix(n, kHidden, out, bits, 16, isa);
  if (short_one) return l;
  l.vectors[kDecay] = n.floats(decays), l.vectors[kStepBias] = n.floats(decays);
  for (float& v : l.vectors[kDecay]) v = -1.0f - v;  // at most 0
  l.vectors[kSkip] = n.floats(f.value_heads), l.vectors[kMixerNorm] = n.floats(mamba ? out : f.value_dim);
  l.matrices[kRates] = matrix(n, f.value_heads * (kimi || mamba ? 1 : 2), kHidden, 32, 0, isa);
  for (Product low : {kForgetA, kGateA}) {
    if (!kimi) break;
    l.matrices[low] = matrix(n, f.value_dim, kHidden, bits, 32, isa);
    l.matrices[low + 1] = matrix(n, out, f.value_dim, bits, 16, isa);
  }
  return l;
}

Layer latent(Numbers& n, int bits, const char* isa) {
  Layer l;
  LatentForm& f = l.form.latent;
  f = {5, 32, 40, 20, 16, 12, 1e-5f};
  l.form.rope = 0, l.form.rotated = 16, l.form.score_scale = 0.2f;
  put_rest(l, n, isa);
  l.vectors[kLatentNorm] = n.floats(f.kv_rank), l.vectors[kQueryANorm] = n.floats(f.query_rank);
  l.matrices[kQkv] = matrix(n, f.kept(), kHidden, bits, 32, isa);
  l.matrices[kQueryA] = matrix(n, f.query_rank, kHidden, bits, 32, isa);
  l.matrices[kQuery] = matrix(n, f.heads * f.query(), f.query_rank, bits, 16, isa);
  l.matrices[kO] = matrix(n, kHidden, f.heads * f.value_dim, bits, 16, isa);
  for (size_t head = 0; head < f.heads; ++head) {
    l.key_up.push_back(matrix(n, f.kv_rank, f.nope_dim, bits, 16, isa));
    l.value_up.push_back(matrix(n, f.value_dim, f.kv_rank, bits, 16, isa));
  }
  return l;
}

uint64_t run(int bits, const char* isa, const std::vector<size_t>& chunks) {
  Numbers n;
  ModelForm model;
  model.hidden = kHidden, model.experts = kExperts, model.eps = 1e-6f, model.softcap = 30.0f, model.centred = bits == 4;
  std::vector<Layer> layers{layer(n, bits, false, isa), layer(n, bits, true, isa), latent(n, bits, isa)};
  for (Rule rule : {Rule::gated_delta, Rule::kimi_delta, Rule::mamba2, Rule::convolution})
    layers.push_back(recurrent(n, bits, rule, isa));
  const size_t count = layers.size();
  Layer head;
  head.form.joins = true, head.vectors[kAttnNorm] = n.floats(kHidden);
  head.matrices[kHead] = matrix(n, kVocabulary, kHidden, bits, 32, isa);
  layers.push_back(head);
  DenseTrunk trunk(model, layers, std::make_shared<Team>(2), isa, kTokens);
  Frame frame(kTokens, kHidden, kExperts, false, {8});
  std::vector<std::vector<float>> caches(5, std::vector<float>(kSlots * 56, 5.0f));
  frame.caches = {{caches[0].data(), caches[1].data()}, {caches[2].data(), caches[3].data()}, {caches[4].data()}};
  frame.caches.resize(count);
  frame.slots = kSlots;
  int64_t numbers = 0;
  frame.state_places.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const MixerForm& f = layers[i].form.mixer;
    if (f.rule == Rule::none) continue;
    frame.state_places[i].conv = numbers, numbers += int64_t(3 * (f.values() ? f.channels() : kHidden));
    frame.state_places[i].state = numbers, numbers += int64_t(f.value_heads * f.key_dim * f.value_dim);
  }
  std::vector<std::vector<float>> states(2, std::vector<float>(size_t(numbers), 0.0f));
  frame.state_slots = {states[0].data(), states[1].data()};
  const std::vector<float> x = n.floats(kTokens * kHidden), angles = n.floats(kTokens * 8);
  uint64_t sum = 1469598103934665603u;  // FNV-1a
  for (size_t tokens : chunks) {
    const size_t at = frame.start + frame.tokens;
    frame.start = at, frame.tokens = tokens;
    frame.stops = {{tokens, 1 - frame.state_slot}};
    std::memcpy(frame.resid, x.data() + at * kHidden, tokens * kHidden * 4);
    std::memcpy(frame.cos[0], angles.data() + at * 8, tokens * 8 * 4);
    std::memcpy(frame.sin[0], angles.data() + at * 8, tokens * 8 * 4);
    std::vector<float> expert_out(tokens * kHidden), logits(tokens * kVocabulary);
    for (size_t i = 0; i < count; ++i) {
      trunk.run_layer(i, frame, i ? expert_out.data() : nullptr);
      if (layers[i].form.shared.width == 0) continue;  // the next layer gets the same once more
      trunk.run_shared(i, frame);
      std::memcpy(expert_out.data(), frame.y, expert_out.size() * 4);
    }
    frame.state_slot = 1 - frame.state_slot;
    trunk.head(frame, expert_out.data(), 0, tokens, logits.data());
    for (float v : logits) {
      if (!(v > -1e30f && v < 1e30f)) return 0;  // then equal sums would say nothing
      uint32_t word;
      std::memcpy(&word, &v, 4);
      sum = (sum ^ word) * 1099511628211u;
    }
  }
  return sum;
}

}  // namespace

int main() {
  int failures = 0;
  for (int bits : {32, 8, 4}) {
    const uint64_t expected = run(bits, "scalar", {kTokens});
    failures += expected == 0;
    for (const KernelTable* table : available_kernels())
      for (const std::vector<size_t>& chunks : std::vector<std::vector<size_t>>{{kTokens}, {1, 1, 7, 1, 31}})
        failures += run(bits, table->name, chunks) != expected;
    std::printf("trunk of %d bits: %016llx\n", bits, static_cast<unsigned long long>(expected));
  }
  if (failures) std::printf("FAILED: %d instruction sets or chunks give other bits\n", failures);
  return failures != 0;
}
