// Fixed pseudo-random logits through routers of every kind; prints a hash of the experts and of the bits of their weights
// for each. The output must be the same wherever it is compiled for.
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../edge_runtime/policy/src/router.hpp"

using namespace hobbit;

namespace {

constexpr size_t kExperts = 24, kTopK = 5, kTokens = 2000;

uint32_t state = 1;
float uniform(float low, float high) {
  state = state * 1664525u + 1013904223u;
  return low + (high - low) * (float(state >> 8) / 16777216.0f);
}

}  // namespace

int main() {
  std::vector<float> logits(kTokens * kExperts), bias(kExperts), scale(kExperts), weights(kTokens * kTopK), keys(logits.size());
  for (float& z : logits) z = uniform(-9, 9);
  for (float& b : bias) b = uniform(-0.3f, 0.3f);
  for (float& s : scale) s = uniform(0.5f, 2);
  std::vector<int32_t> ids(weights.size());
  for (const Score score : {Score::softmax, Score::sigmoid, Score::sqrt_softplus})
    for (int kind = 0; kind <= 40; ++kind) {
      const bool biased = kind & 1, grouped = kind & 2, normalised = kind & 4, scaled = kind & 8, chosen = kind & 16;
      if (chosen && (normalised || score != Score::softmax)) continue;
      const bool near = kind == 32 || kind == 40;  // sparsemixer, the second one scaled
      if (kind >= 32 && (!near || score != Score::softmax)) continue;
      RouterRule rule{kExperts, score, chosen, normalised, normalised ? 1e-6f : 0.0f, scaled ? 2.5f : 1.0f,
                            grouped ? size_t(4) : 0, grouped ? size_t(2) : 0, grouped && scaled};
      if (near) rule.near = scaled ? 0.02f : 0.5f;
      Router router(rule, {biased ? bias.data() : nullptr, scaled ? scale.data() : nullptr, nullptr, 1, 0, 0, 0});
      router.route(0, {logits.data(), nullptr, kTokens, kTopK, ids.data(), weights.data()});
      router.preference(0, logits.data(), kTokens, keys.data());
      uint64_t hash = 1469598103934665603ull;
      const auto add = [&](const void* from, size_t words) {
        for (size_t i = 0; i < words; ++i) {
          uint32_t word;
          std::memcpy(&word, static_cast<const char*>(from) + 4 * i, 4);
          hash = (hash ^ word) * 1099511628211ull;
        }
      };
      add(ids.data(), ids.size()), add(weights.data(), weights.size()), add(keys.data(), keys.size());
      std::printf("route: score %d, kind %2d: %016llx\n", int(score), kind, static_cast<unsigned long long>(hash));
    }
}
