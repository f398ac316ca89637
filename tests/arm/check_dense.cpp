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

uint64_t run(int bits, const char* isa, const std::vector<size_t>& chunks) {
  Numbers n;
  ModelForm model;
  model.hidden = kHidden, model.experts = kExperts, model.eps = 1e-6f, model.softcap = 30.0f, model.centred = bits == 4;
  std::vector<Layer> layers{layer(n, bits, false, isa), layer(n, bits, true, isa), Layer()};
  layers[2].form.joins = true, layers[2].vectors[kAttnNorm] = n.floats(kHidden);
  layers[2].matrices[kHead] = matrix(n, kVocabulary, kHidden, bits, 32, isa);
  DenseTrunk trunk(model, layers, std::make_shared<Team>(2), isa, kTokens);
  Frame frame(kTokens, kHidden, kExperts, false, {8});
  std::vector<std::vector<float>> caches(4, std::vector<float>(2 * kSlots * 20, 5.0f));
  frame.caches = {{caches[0].data(), caches[1].data()}, {caches[2].data(), caches[3].data()}};
  frame.slots = kSlots;
  const std::vector<float> x = n.floats(kTokens * kHidden), angles = n.floats(kTokens * 8);
  uint64_t sum = 1469598103934665603u;  // FNV-1a
  for (size_t tokens : chunks) {
    const size_t at = frame.start + frame.tokens;
    frame.start = at, frame.tokens = tokens;
    std::memcpy(frame.resid, x.data() + at * kHidden, tokens * kHidden * 4);
    std::memcpy(frame.cos[0], angles.data() + at * 8, tokens * 8 * 4);
    std::memcpy(frame.sin[0], angles.data() + at * 8, tokens * 8 * 4);
    std::vector<float> moe(tokens * kHidden), logits(tokens * kVocabulary);
    for (size_t i = 0; i < 2; ++i) {
      trunk.run_layer(i, frame, i ? moe.data() : nullptr);
      trunk.run_shared(i, frame);
      std::memcpy(moe.data(), frame.y, moe.size() * 4);
    }
    trunk.head(frame, moe.data(), 0, tokens, logits.data());
    for (float v : logits) {
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
    for (const KernelTable* table : available_kernels())
      for (const std::vector<size_t>& chunks : std::vector<std::vector<size_t>>{{kTokens}, {1, 1, 7, 1, 31}})
        failures += run(bits, table->name, chunks) != expected;
    std::printf("trunk of %d bits: %016llx\n", bits, static_cast<unsigned long long>(expected));
  }
  if (failures) std::printf("FAILED: %d instruction sets or chunks give other bits\n", failures);
  return failures != 0;
}
