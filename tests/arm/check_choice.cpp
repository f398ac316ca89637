// A fixed pseudo-random history of the rate-distortion choice for single tokens; prints counts and a hash of what was
// chosen. The output must be the same wherever it is compiled for. Weights of substitutes hold an exponential, whose last
// bits are the C library's, and are left out.
#include <cstdio>
#include <vector>

#include "../../edge_runtime/policy/src/one_token.hpp"

using namespace hobbit;

namespace {

constexpr int kLayers = 3, kExperts = 32, kTopK = 6, kChoices = 5;

uint32_t state = 1;
uint32_t next(uint32_t below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}
double uniform() { return (1 + next(1000)) / 1001.0; }

std::vector<double> filled(size_t size, double value) { return std::vector<double>(size, value); }

}  // namespace

int main() {
  const std::vector<uint8_t> served{8, 6, 4, 2, 0};
  const double size[kTierRows] = {0, 0, 300, 300, 500, 500, 700, 700, 900, 900, 900, 900, 900, 900, 900, 900, 900};
  const double loss[kChoices] = {0, 0.005, 0.02, 0.18, 0.4};
  std::vector<double> losses, missing, held(size, size + kTierRows), shares{0.5, 9, 0.9};
  for (int key = 0; key < kLayers * kExperts; ++key)
    for (const double each : loss) losses.push_back(each * uniform());
  for (int tier = 0; tier < kTierRows; ++tier)
    for (const int option : served) missing.push_back(size[option] > size[tier] ? size[option] - size[tier] : 0);
  auto sums = filled(kLayers * kExperts, 0.01), factors = filled(kLayers, 1), tokens = filled(kLayers, 64);
  const RouterRule rule{kExperts, Score::softmax, false, true, 0, 1, 0, 0, false};
  const ChoiceArrays arrays{losses.data(), missing.data(), held.data(), shares.data(), nullptr,
                            sums.data(), factors.data(), tokens.data()};
  OneToken alone(arrays, {kLayers, kExperts, served, 8, 2, 1 - 1.0 / 16, rule, 0, 0});
  OneToken over_base(arrays, {kLayers, kExperts, served, 8, 2, 1 - 1.0 / 16, rule, 2, 2});
  uint64_t hash = 1469598103934665603ull;
  int substituted = 0, skipped = 0, changed = 0, deepened = 0;
  double read = 0;
  for (int step = 0; step < 20000; ++step) {
    std::vector<float> logits(kExperts), weights, decided_weights(kTopK);
    std::vector<int32_t> ids, decided_ids(kTopK);
    std::vector<uint8_t> resident(kExperts), tiers(kExperts), later(kExperts);
    const bool has_base = step % 2;
    for (float& logit : logits) logit = float(uniform());
    for (uint8_t& tier : resident) tier = next(2) ? uint8_t(2 * next(5)) : 0;
    for (uint8_t& tier : resident) tier = has_base && tier < 2 ? 2 : tier;
    for (int rank = 0, first = int(next(kExperts)); rank < kTopK; ++rank) {
      ids.push_back((first + 5 * rank) % kExperts);
      weights.push_back(float(uniform() / (1 + rank)));
    }
    const TokenRow row{int(next(kLayers)), kTopK, logits.data(), logits.data(), ids.data(), weights.data(),
                       resident.data()};
    const Prices prices{1e-3 * uniform(), 1e-4 * uniform()};
    const DecisionCounts found = (has_base ? over_base : alone)
                               .decide(row, prices, {decided_ids.data(), decided_weights.data(), tiers.data(), later.data()});
    substituted += found.substituted, skipped += found.skipped, changed += found.changed, read += found.read_bytes;
    for (const uint8_t tier : tiers) hash = (hash ^ tier) * 1099511628211ull;
    for (const uint8_t tier : later) hash = (hash ^ tier) * 1099511628211ull, deepened += tier > 0;
    for (const int32_t id : decided_ids) hash = (hash ^ uint32_t(id)) * 1099511628211ull;
  }
  std::printf("choice: %d at lower tiers, %d skipped, %d substitutes, %d deepened, %.0f bytes, state %016llx\n", substituted,
              skipped, changed, deepened, read, static_cast<unsigned long long>(hash));
  return substituted && skipped && changed && deepened ? 0 : 1;
}
