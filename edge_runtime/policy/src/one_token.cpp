#include "one_token.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "router.hpp"

namespace hobbit {

namespace {
constexpr double kLeastFactor = 1e-9;
}

OneToken::OneToken(const ChoiceArrays& arrays, ChoiceShape shape) : arrays_(arrays), shape_(std::move(shape)) {
  for (int tier = 0; tier < kTierRows; ++tier)
    row_of_.push_back(int(std::count_if(shape_.served.begin(), shape_.served.end(), [&](int t) { return t > tier; })));
}

// Sums fade instead of means, and one factor stands for the fading of a layer: a token touches its own experts only.
void OneToken::note(const TokenRow& row) {
  double& factor = arrays_.factors[row.layer];
  double& tokens = arrays_.tokens[row.layer];
  double* sums = arrays_.sums + int64_t(row.layer) * shape_.experts;
  factor *= shape_.keep;
  if (factor < kLeastFactor) {
    for (int expert = 0; expert < shape_.experts; ++expert) sums[expert] *= factor;
    factor = 1;
  }
  const double share = 1 / factor;
  for (int rank = 0; rank < row.top_k; ++rank) {
    const double weight = row.weights[rank];
    sums[row.ids[rank]] += weight * weight * share;
  }
  tokens = tokens * shape_.keep + 1;
}

// The choice of least cost for the expert of a rank; equal costs go to the deeper tier.
int OneToken::choose_expert(const TokenRow& row, const Prices& prices, int rank, double scale) const {
  const int expert = row.ids[rank], tier = row.resident[expert], choices = int(shape_.served.size());
  const int64_t key = int64_t(row.layer) * shape_.experts + expert;
  const double* losses = arrays_.losses + key * choices;
  const double* missing = arrays_.missing + int64_t(tier) * choices;
  const double power = double(row.weights[rank]) * row.weights[rank];
  const double now = losses[row_of_[tier]], later = shape_.horizon * (arrays_.sums[key] * scale);
  const int allowed = rank ? choices : choices - 1;  // the heaviest is never skipped
  int best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int option = 0; option < allowed; ++option) {
    // what a read saves beyond this token, less what those who leave for it would have saved
    const double saved = (now - losses[option]) * later - prices.opportunity_cost * missing[option];
    double cost = losses[option] * power + prices.read * missing[option];
    if (saved > 0 && !shape_.base) cost -= saved;  // over a base, later uses are no reason to wait now
    if (cost < least) best = option, least = cost;
  }
  return best;
}

// Tiers and losses of all ranks into `served_` and `losses_`; returns the bytes that are missing.
double OneToken::choose(const TokenRow& row, const Prices& prices) {
  const double scale = arrays_.factors[row.layer] / arrays_.tokens[row.layer];
  const int choices = int(shape_.served.size());
  served_.assign(row.top_k, uint8_t(shape_.full));
  losses_.assign(row.top_k, 0.0);
  double read = 0;
  for (int rank = 0; rank < row.top_k; ++rank) {
    const int expert = row.ids[rank], tier = row.resident[expert];
    if (tier >= shape_.full) continue;  // nothing to read, nothing lost
    const int best = choose_expert(row, prices, rank, scale);
    const double loss = arrays_.losses[(int64_t(row.layer) * shape_.experts + expert) * choices + best];
    served_[rank] = shape_.served[best];
    const double power = double(row.weights[rank]) * row.weights[rank];
    if (loss > 0) losses_[rank] = loss * power;  // 0 even if the weight is no number
    read += arrays_.missing[int64_t(tier) * choices + best];
  }
  return read;
}

// Where every expert is there at the base tier: the deeper tiers whose planes are to be read for later uses, of the
// experts that save most for their bytes; returns those bytes.
double OneToken::upgrade(const TokenRow& row, const Prices& prices, uint8_t* later) const {
  struct Deeper {
    double rate;  // nats a byte
    int rank, option;
  };
  const double scale = arrays_.factors[row.layer] / arrays_.tokens[row.layer];
  const int choices = int(shape_.served.size());
  std::vector<Deeper> deeper;
  for (int rank = 0; rank < row.top_k; ++rank) {
    const int held = std::max(row.resident[row.ids[rank]], served_[rank]);
    const int64_t key = int64_t(row.layer) * shape_.experts + row.ids[rank];
    const double* losses = arrays_.losses + key * choices;
    const double* missing = arrays_.missing + int64_t(held) * choices;
    Deeper best{prices.opportunity_cost, rank, -1};
    for (int option = 0; option < row_of_[held]; ++option) {
      if (missing[option] <= 0) continue;
      const double saved = (losses[row_of_[held]] - losses[option]) * shape_.horizon * (arrays_.sums[key] * scale);
      const double rate = saved / missing[option];
      if (rate > best.rate) best.rate = rate, best.option = option;
    }
    if (best.option >= 0) deeper.push_back(best);
  }
  std::stable_sort(deeper.begin(), deeper.end(), [](const Deeper& a, const Deeper& b) { return a.rate > b.rate; });
  double read = 0;
  for (size_t i = 0; i < deeper.size() && int(i) < shape_.upgrades; ++i) {
    const int expert = row.ids[deeper[i].rank], held = std::max(row.resident[expert], served_[deeper[i].rank]);
    later[expert] = shape_.served[deeper[i].option];
    read += arrays_.missing[int64_t(held) * choices + deeper[i].option];
  }
  return read;
}

// The likeliest resident that is not in `taken`, the lower index of equals; -1: there is none.
int OneToken::next_resident(const TokenRow& row, const std::vector<int>& taken) const {
  int best = -1;
  for (int expert = 0; expert < shape_.experts; ++expert) {
    if (!row.resident[expert] || std::find(taken.begin(), taken.end(), expert) != taken.end()) continue;
    if (best < 0 || row.preference[expert] > row.preference[best]) best = expert;
  }
  return best;
}

double OneToken::factor(int layer, int expert) const {
  return arrays_.factors_of_experts ? arrays_.factors_of_experts[int64_t(layer) * shape_.experts + expert] : 1.0;
}

// What sparsemixer gives an expert in the place of a rank, beside the others that run.
double OneToken::among_rivals(const TokenRow& row, int expert, int rank, const std::vector<double>& given,
                              const TokenDecision& decision) const {
  std::vector<int32_t> before;
  for (int other = 0; other < row.top_k; ++other) {
    const int id = decision.ids[other];
    const bool is_greater = row.logits[id] > row.logits[expert] || (row.logits[id] == row.logits[expert] && id < expert);
    if (other != rank && given[other] != 0 && is_greater) before.push_back(id);
  }
  return weight_among_rivals(shape_.rule, row.logits, expert, before) * shape_.rule.scale * factor(row.layer, expert);
}

// Empty places go to the likeliest residents the router did not choose. One weighs what the model's own rule gives it
// among those that now run.
void OneToken::fill(const TokenRow& row, const std::vector<int>& empty, std::vector<double>& given,
                    const TokenDecision& decision) {
  std::vector<int> taken(row.ids, row.ids + row.top_k), filled;
  const double first = row.logits[row.ids[0]];
  for (const int rank : empty) {
    const int expert = next_resident(row, taken);
    if (expert < 0) break;
    taken.push_back(expert);
    filled.push_back(rank);
    decision.ids[rank] = expert;
    decision.tiers[expert] = row.resident[expert];
    losses_[rank] *= arrays_.shares[row.layer];
    if (shape_.rule.is_sparsemixer()) {
      given[rank] = among_rivals(row, expert, rank, given, decision);
      continue;
    }
    const double own = factor(row.layer, row.ids[0]);
    const double times = own == 0 ? 0 : factor(row.layer, expert) / own;
    given[rank] = given[0] * score_ratio(shape_.rule.score, row.logits[expert], first) * times;
  }
  if (!shape_.rule.normalise && !shape_.rule.over_chosen) return;
  double total = 0;
  for (int rank = 0; rank < row.top_k; ++rank) {
    const double times = factor(row.layer, decision.ids[rank]) * shape_.rule.scale;
    if (given[rank] != 0) total += given[rank] / times;
  }
  for (const int rank : filled) given[rank] /= total;
}

DecisionCounts OneToken::decide(const TokenRow& row, const Prices& prices, const TokenDecision& decision) {
  DecisionCounts found;
  note(row);
  found.read_bytes = choose(row, prices);
  if (shape_.base) found.read_bytes += upgrade(row, prices, decision.later);
  std::copy_n(row.ids, row.top_k, decision.ids);
  std::copy_n(row.weights, row.top_k, decision.weights);
  std::vector<int> empty;
  for (int rank = 0; rank < row.top_k; ++rank) {
    decision.tiers[row.ids[rank]] = served_[rank];
    if (!served_[rank])
      empty.push_back(rank);
    else if (served_[rank] < shape_.full && row.weights[rank] != 0)
      ++found.substituted;
  }
  if (!empty.empty()) {
    std::vector<double> given(row.weights, row.weights + row.top_k);
    const auto zeros = std::count(given.begin(), given.end(), 0.0);
    for (const int rank : empty) given[rank] = 0;
    if (arrays_.shares[row.layer] < 1) fill(row, empty, given, decision);
    for (const int rank : empty) found.changed += given[rank] != 0;
    found.skipped = int(std::count(given.begin(), given.end(), 0.0) - zeros);
    std::copy(given.begin(), given.end(), decision.weights);
  }
  for (const double loss : losses_) found.loss += loss;
  for (int expert = 0; expert < shape_.experts; ++expert) found.held_bytes += arrays_.held[row.resident[expert]];
  return found;
}

void OneToken::predict_tiers(const TokenRow& row, const Prices& prices, uint8_t* tiers) {
  choose(row, prices);
  for (int rank = 0; rank < row.top_k; ++rank) tiers[row.ids[rank]] = served_[rank];
}

std::optional<double> OneToken::value_of_residents(int layer, const uint8_t* resident) const {
  const int choices = int(shape_.served.size());
  const double scale = arrays_.factors[layer] / arrays_.tokens[layer];
  const int least = row_of_[shape_.base];  // without a base that is the skip
  double value = 0;
  int count = 0;
  for (int expert = 0; expert < shape_.experts; ++expert) {
    const int tier = resident[expert];
    if (tier <= shape_.base) continue;
    const int64_t key = int64_t(layer) * shape_.experts + expert;
    const double* losses = arrays_.losses + key * choices;
    const double bytes = arrays_.held[tier] - arrays_.held[shape_.base];
    if (bytes <= 0) continue;
    value += (losses[least] - losses[row_of_[tier]]) * (arrays_.sums[key] * scale) / bytes;
    ++count;
  }
  if (count == 0) return std::nullopt;
  return value / count;
}

}  // namespace hobbit
