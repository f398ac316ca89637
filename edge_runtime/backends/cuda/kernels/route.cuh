// The router's rule for one token by one warp: edge_runtime/base/spec/router.py says what it is.
#pragma once
#include "platform.cuh"

constexpr u32 kMostExperts = 1024;
constexpr u32 kMostRanks = 32;  // one a lane

enum Score : u32 { kSoftmax = 0, kSigmoid = 1, kSqrtSoftplus = 2 };

struct RouterRule {
  u32 experts, top_k, score, over_chosen, normalise;
  float epsilon, scale;
  u32 groups, chosen_groups, two_best;  // groups 0: there are none
  float near, floor;                    // near: of sparsemixer; below 0: another rule
};
// A layer's numbers; null where the rule has none.
struct RouterTensors {
  const float* logit_bias;      // [E]
  const float* selection_bias;  // [E]
  const float* expert_scale;    // [E]
  const i32* table;             // [vocabulary, K]: the layer's experts by token id
  const i32* token_ids;         // [T], with `table`
};

// Greatest key of a warp and where it is, equal ones by number. NaN counts as below everything.
struct Best {
  float key;
  i32 at;
};
HB_DEV bool is_before(float key, i32 at, const Best& other) {
  return other.at < 0 || key > other.key || (key == other.key && at < other.at);
}
HB_DEV Best best_of_warp(Best mine) {
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) {
    const Best other = {__shfl_xor_sync(kAllLanes, mine.key, mask), __shfl_xor_sync(kAllLanes, mine.at, mask)};
    if (other.at >= 0 && is_before(other.key, other.at, mine)) mine = other;
  }
  return mine;
}
HB_DEV bool is_finite(float v) { return (__float_as_int(v) & 0x7fffffff) < 0x7f800000; }

HB_DEV float score_of(u32 score, float z, float top, float total) {
  if (score == kSigmoid) return 1.0f / (1.0f + expf(-z));
  if (score == kSqrtSoftplus) return sqrtf(fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z))));
  return expf(z - top) / total;
}

// One token's row in shared memory.
struct RouterRow {
  float* keys;       // [E], what the choice compares; taken ones become NaN
  float* logits;     // [E], bias included
  float top, total;  // softmax: greatest logit, sum of exponentials
};

HB_DEV Best greatest_key(const float* keys, u32 first, u32 end) {
  Best mine = {0.0f, -1};
  for (u32 at = first; at < end; at += kWarp) {  // as often in every lane: a warp function behind it stays inline
    const u32 e = at + threadIdx.x % kWarp;
    if (e < end && keys[e] == keys[e] && is_before(keys[e], i32(e), mine)) mine = {keys[e], i32(e)};
  }
  return best_of_warp(mine);
}

// Keys of groups that are not among the best become NaN: nobody chooses them.
HB_DEV void close_groups(const RouterRule& rule, float* keys, float* of_group) {
  const u32 lane = threadIdx.x % kWarp, size = rule.experts / rule.groups;
  for (u32 g = 0; g < rule.groups; ++g) {
    const Best first = greatest_key(keys, g * size, (g + 1) * size);
    float score = first.key;
    if (rule.two_best) {
      Best mine = {0.0f, -1};
      for (u32 at = 0; at < size; at += kWarp) {
        const u32 e = g * size + at + lane;
        if (at + lane < size && i32(e) != first.at && is_before(keys[e], i32(e), mine)) mine = {keys[e], i32(e)};
      }
      score += best_of_warp(mine).key;
    }
    if (lane == 0) of_group[g] = score;
  }
  __syncwarp();
  for (u32 e = lane; e < rule.experts; e += kWarp) {
    const u32 mine = e / size;
    u32 better = 0;  // groups before this one; equal ones by number
    for (u32 g = 0; g < rule.groups; ++g)
      better += of_group[g] > of_group[mine] || (of_group[g] == of_group[mine] && g < mine);
    if (better >= rule.chosen_groups) keys[e] = __int_as_float(0x7fc00000);
  }
  __syncwarp();
}

// Lane k returns the expert of rank k, by falling key.
HB_DEV i32 choose(const RouterRule& rule, float* keys) {
  const u32 lane = threadIdx.x % kWarp;
  i32 chosen = -1;
  for (u32 k = 0; k < rule.top_k; ++k) {
    const Best best = greatest_key(keys, 0, rule.experts);
    if (lane == k) chosen = best.at;
    if (best.at >= 0 && u32(best.at) % kWarp == lane) keys[best.at] = __int_as_float(0x7fc00000);
    __syncwarp();
  }
  return chosen;
}

// Sparsemixer: the softmax of each of the chosen, taken by falling logit, among those not taken before it that are near.
HB_DEV float weigh_among_rivals(const RouterRule& rule, const RouterRow& row, i32 expert) {
  const u32 lane = threadIdx.x % kWarp;
  float mine = 0.0f;
  for (u32 k = 0; k < rule.top_k; ++k) {
    const i32 best = __shfl_sync(kAllLanes, expert, k);
    const float top = row.logits[best];
    float total = 0.0f;
    for (u32 e = lane; e < rule.experts; e += kWarp) {
      const float z = row.logits[e];
      const bool is_far = (top - z) / fmaxf(fabsf(z), top) > rule.near;  // false for 0 of 0
      if (!is_far && !is_before(z, i32(e), {top, best})) total += expf(z - top);
    }
    total = sum_of_warp(total);
    if (lane == k) mine = 1.0f / total;
  }
  return mine;
}

// Weight of this lane's expert; lanes behind the last rank have none.
HB_DEV float weigh(const RouterRule& rule, const RouterTensors& of, const RouterRow& row, i32 expert) {
  const bool has = expert >= 0;
  const float z = has ? row.logits[expert] : 0.0f;
  float weight = 0.0f;
  const bool is_plain = rule.normalise && rule.epsilon == 0.0f && rule.floor == 0.0f;
  if (rule.near >= 0.0f) {
    weight = weigh_among_rivals(rule, row, expert);
  } else if (rule.over_chosen || (rule.score == kSoftmax && is_plain)) {
    const float top = best_of_warp({z, has ? i32(threadIdx.x % kWarp) : -1}).key;
    weight = has ? expf(z - top) : 0.0f;
    weight /= sum_of_warp(weight);
  } else {
    weight = has ? score_of(rule.score, z, row.top, row.total) : 0.0f;
    const float sum = sum_of_warp(weight);
    if (rule.normalise) weight /= fmaxf(sum, rule.floor) + rule.epsilon;
  }
  weight *= rule.scale;
  return has && of.expert_scale ? weight * of.expert_scale[expert] : weight;
}

// Where this lane's expert stands when the heaviest is first; equal ones by logit, then by number.
HB_DEV u32 rank_by_weight(const RouterRule& rule, const RouterRow& row, i32 expert, float weight) {
  const float z = expert >= 0 ? row.logits[expert] : 0.0f, heavy = fabsf(weight);
  u32 rank = 0;
  for (u32 k = 0; k < rule.top_k; ++k) {
    const float other = __shfl_sync(kAllLanes, heavy, k), other_z = __shfl_sync(kAllLanes, z, k);
    const i32 id = __shfl_sync(kAllLanes, expert, k);
    const bool by_logit = other_z > z || (other_z == z && id < expert);
    rank += other > heavy || (other == heavy && by_logit);
  }
  return rank;
}

// grid (T), 32 threads. A row with a logit that is not finite gets NaN as its weights, so that it shows in the output.
HB_DEV void route(const float* logits, const RouterRule& rule, const RouterTensors& of, i32* ids, float* weights) {
  HB_SHARED(float, keys, [kMostExperts]);
  HB_SHARED(float, of_group, [kMostExperts]);
  HB_SHARED(float, biased, [kMostExperts]);
  const u32 lane = threadIdx.x, token = blockIdx.x;
  for (u32 e = lane; e < rule.experts; e += kWarp)
    biased[e] = logits[u64(token) * rule.experts + e] + (of.logit_bias ? of.logit_bias[e] : 0.0f);
  __syncwarp();
  RouterRow row = {keys, biased, 0.0f, 0.0f};
  Best top = {0.0f, -1};
  u32 broken = 0;
  for (u32 at = 0; at < rule.experts; at += kWarp) {
    const u32 e = at + lane;
    if (e >= rule.experts) continue;
    broken += !is_finite(row.logits[e]);
    if (is_before(row.logits[e], i32(e), top)) top = {row.logits[e], i32(e)};
  }
#pragma unroll
  for (u32 mask = 16; mask; mask >>= 1) broken += __shfl_xor_sync(kAllLanes, broken, mask);
  row.top = best_of_warp(top).key;
  for (u32 at = 0; at < rule.experts; at += kWarp)
    if (at + lane < rule.experts) row.total += expf(row.logits[at + lane] - row.top);
  row.total = sum_of_warp(row.total);
  // logits order as the scores do where nothing is added to scores, and are not rounded to equal ones
  const bool by_logit = broken || rule.over_chosen || (!of.selection_bias && !rule.groups);
  for (u32 e = lane; e < rule.experts; e += kWarp) {
    const float key = by_logit ? row.logits[e] : score_of(rule.score, row.logits[e], row.top, row.total);
    keys[e] = broken ? 0.0f : key + (of.selection_bias ? of.selection_bias[e] : 0.0f);
  }
  __syncwarp();
  if (rule.groups && !broken && !of.table) close_groups(rule, keys, of_group);
  i32 expert = of.table ? (lane < rule.top_k ? of.table[u64(of.token_ids[token]) * rule.top_k + lane] : -1) : choose(rule, keys);
  float weight = weigh(rule, of, row, expert);
  const u32 rank = broken ? lane : rank_by_weight(rule, row, expert, weight);
  if (lane >= rule.top_k) return;
  ids[token * rule.top_k + rank] = expert;
  weights[token * rule.top_k + rank] = broken ? __int_as_float(0x7fc00000) : weight;
}
