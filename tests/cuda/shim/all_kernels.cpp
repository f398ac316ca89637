// Every kernel once on random bytes, for the sanitisers: [SEED [quick]]. Numbers are not looked at. Prints "finished".
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "hobbit.cu"

extern "C" void shim_seed(u64);

namespace {
constexpr u32 kHidden = 64, kInter = 64, kTopK = 2, kTokens = 2, kPairs = kTokens * kTopK;
std::mt19937 generator(1);

template <class T> std::vector<T> zeros(size_t n) { return std::vector<T>(n); }
void set_float(std::vector<u8>& bytes, size_t at, float v) { std::memcpy(bytes.data() + at, &v, 4); }

// Exactly as long as it has to be, so that a read behind its end is found.
std::vector<u8> random_bytes(size_t n) {
  std::vector<u8> bytes(n);
  for (u8& b : bytes) b = u8(generator());
  return bytes;
}
struct Record {
  std::vector<u8> segments[4], bf16;
  u64 table[4], bf16_table[4];
  explicit Record(const Shape& s) {
    const size_t in = s.gated ? 2 * s.inter : s.inter, plane = (in * s.hidden + s.inter * s.hidden) / 4;
    const size_t meta = in / 16 * (192 + s.hidden) + s.hidden / 16 * (192 + s.inter), biases = 4 * (in + s.hidden);
    for (int k = 0; k < 4; ++k) segments[k] = random_bytes((k ? 0 : 64 + meta + biases) + plane);
    for (size_t p = 0, at = 64; at < 64 + meta; ++p, at += 192 + (p <= in / 16 ? s.hidden : s.inter))
      for (int i = 0; i < 32; ++i) set_float(segments[0], at + 4 * i, 1e-3f);
    for (size_t at = segments[0].size() - biases; at < segments[0].size(); at += 4) set_float(segments[0], at, 0.25f);
    bf16 = random_bytes(8 * plane + biases);
    for (size_t at = 0; at < 8 * plane; at += 2) bf16[at + 1] = 0x3c;
    for (size_t at = 8 * plane; at < bf16.size(); at += 4) set_float(bf16, at, 0.25f);
    for (int k = 0; k < 4; ++k) table[k] = reinterpret_cast<u64>(segments[k].data()), bf16_table[k] = reinterpret_cast<u64>(bf16.data());
  }
};

struct Layer {
  Shape shape;
  Variant variant;
  Record record{shape};
  std::vector<i32> ids = zeros<i32>(kPairs), slots{0, -1, 0}, members;
  std::vector<Tile> tiles;
  std::vector<float> x = zeros<float>(kTokens * kHidden), h = zeros<float>(kPairs * kInter), y = zeros<float>(kPairs * kHidden);
  std::vector<ActGroup> xq = zeros<ActGroup>(kTokens * kHidden / 32), hq = zeros<ActGroup>(kPairs * kInter / 32);

  Layer(const Shape& s, const Variant& v) : shape(s), variant(v) {
    for (u32 p = 0; p < kPairs; ++p) {
      ids[p] = i32(p % 4) - 1;
      if (ids[p] == 0 || ids[p] == 2) members.push_back(i32(p));
    }
    tiles = {{0, 0, i32(members.size())}};
    for (float& v : x) v = float(generator() % 1000) / 500 - 1;
    launch_on_host({(kTokens * kHidden / 32 + 7) / 8}, 256, [&] { hb_quantize(x.data(), xq.data(), kTokens * kHidden / 32); });
  }
  const Pairs pairs(bool bf16) { return {bf16 ? record.bf16_table : record.table, slots.data(), ids.data()}; }
  u32 wide() const { return shape.gated ? 256 : 128; }
};

#define RUN_TIER(T)                                                                                                     \
  launch_on_host({kInter / 32, kPairs}, l.wide(), [&] { hb_gate_up_##T(l.pairs(false), l.xq.data(), l.hq.data(), l.shape, l.variant); });  \
  launch_on_host({kHidden / 32, kPairs}, 128, [&] { hb_down_##T(l.pairs(false), l.hq.data(), l.y.data(), l.shape); });   \
  launch_on_host({kInter / 32, 1}, 256, [&] { hb_batch_gate_up_##T(tiles, l.xq.data(), l.hq.data(), l.shape, l.variant); });  \
  launch_on_host({kHidden / 16, 1}, 256, [&] { hb_batch_down_##T(tiles, l.hq.data(), l.y.data(), l.shape); });

// `quick`: tiers 4 and 16 alone. The others differ in the products of a group, which nobody else sees.
void run_experts(Layer& l, bool quick) {
  const Tiles tiles{l.record.table, l.tiles.data(), l.members.data()};
  RUN_TIER(4)
  if (!quick) { RUN_TIER(2) RUN_TIER(3) RUN_TIER(5) RUN_TIER(6) RUN_TIER(8) }
  launch_on_host({kInter / 32, kPairs}, l.wide(), [&] { hb_gate_up_16(l.pairs(true), l.x.data(), l.h.data(), l.shape, l.variant); });
  launch_on_host({kHidden / 32, kPairs}, 128, [&] { hb_down_16(l.pairs(true), l.h.data(), l.y.data(), l.shape); });
}

void run_layer(Layer& l) {
  auto weight = std::vector<float>(kHidden, 1.0f), out = zeros<float>(kTokens * kHidden), weights = zeros<float>(kPairs);
  launch_on_host({kTokens}, 256, [&] { hb_rms_norm(l.x.data(), weight.data(), 1e-6f, out.data(), l.xq.data(), kHidden); });
  constexpr u32 kExperts = 40;
  auto logits = zeros<float>(kTokens * kExperts), bias = zeros<float>(kExperts), factor = zeros<float>(kExperts);
  for (float& v : logits) v = float(generator() % 1000) / 100;
  const RouterRule rules[] = {{kExperts, kTopK, kSoftmax, 0, 1, 0, 1, 0, 0, 0, -1, 0},
                              {kExperts, kTopK, kSigmoid, 0, 1, 1e-20f, 2, 5, 2, 1, -1, 1e-12f},
                              {kExperts, kTopK, kSoftmax, 0, 0, 0, 1, 0, 0, 0, 0.5f, 0}};
  for (const RouterRule& rule : rules)
    launch_on_host({kTokens}, 32, [&] {
      hb_route(logits.data(), rule, {bias.data(), rule.groups ? bias.data() : nullptr, factor.data(), nullptr, nullptr}, l.ids.data(), weights.data());
    });
  launch_on_host({1, kTokens}, 256, [&] { hb_combine(l.y.data(), weights.data(), out.data(), kHidden, kTopK); });
  const auto bytes = random_bytes(16 * 3570);  // the last round of loads is nearly whole
  auto sums = zeros<u32>(2 * kReadThreads / kWarp);
  launch_on_host({2}, kReadThreads, [&] { hb_read(bytes.data(), 3570, sums.data()); });
  auto in = zeros<u32>(32 * kSelfTestWords), got = zeros<u32>(32 * kSelfTestWords);
  launch_on_host({1}, 32, [&] { hb_self_test(in.data(), got.data()); });
}

std::vector<float> randoms(size_t n) {
  std::vector<float> numbers(n);
  for (float& v : numbers) v = float(generator() % 1000) / 500 - 1;
  return numbers;
}

void run_linear() {
  constexpr u32 kIn = 96, kOut = 40, kRows = 6;
  const auto x = randoms(kIn * kRows), w = randoms(kIn * kOut), bias = randoms(kOut), scales = randoms(kOut * 3);
  const auto codes = random_bytes(kIn * kOut);
  auto y = zeros<float>(kRows * kOut);
  for (const u32 tokens : {1u, kRows}) {
    const Linear s{kIn, kOut, tokens, tokens != 1, 1, kIn, kOut, 0, 0, 0, 0};
    const u32 together = tokens == 1 ? 1 : kMany, rows = (tokens + together - 1) / together;
    const auto run = [&](u32 a_block, auto body) { launch_on_host({(kOut + a_block - 1) / a_block, rows}, 256, body); };
    if (tokens == 1) {
      run(32, [&] { hb_linear_f32_one(x.data(), w.data(), bias.data(), y.data(), s); });
      run(8, [&] { hb_linear_q8_one(x.data(), codes.data(), scales.data(), nullptr, y.data(), s); });
      run(8, [&] { hb_linear_q4_one(x.data(), codes.data(), scales.data(), nullptr, y.data(), s); });
    } else {
      run(32, [&] { hb_linear_f32_many(x.data(), w.data(), bias.data(), y.data(), s); });
      run(8, [&] { hb_linear_q8_many(x.data(), codes.data(), scales.data(), bias.data(), y.data(), s); });
      run(8, [&] { hb_linear_q4_many(x.data(), codes.data(), scales.data(), bias.data(), y.data(), s); });
    }
  }
}

void run_attention() {
  constexpr u32 kHeads = 4, kGroups = 2, kDim = 48, kContext = 12;
  auto qkv = randoms(kTokens * (kHeads + 2 * kGroups) * kDim), keys = randoms(kGroups * kContext * kDim), values = keys;
  auto out = zeros<float>(kTokens * kHeads * kDim);
  const auto gammas = randoms((kHeads + kGroups) * kDim), angles = randoms(kTokens * 16), sinks = randoms(kHeads);
  const std::vector<i32> past{9};
  constexpr u32 kRow = (kHeads + 2 * kGroups) * kDim;
  Heads heads{kHeads, kGroups, kDim, kContext, kRow, kHeads + kGroups, 32, 0, kBeforeRotation, 1, INFINITY, 1e-6f};
  const Attend softmax{kHeads, kGroups, kDim, kContext, 5, 0.2f, kRow, kDim, kDim, 0};
  for (const u32 norm : {kBeforeRotation, kBehindRotation, kNoNorm}) {  // what comes first reads what was clamped
    heads.norm = norm;
    launch_on_host({kHeads + 2 * kGroups, kTokens}, 32, [&] {
      hb_place_heads(qkv.data(), gammas.data(), angles.data(), angles.data(), past.data(), keys.data(), values.data(), heads);
    });
  }
  launch_on_host({kHeads, kTokens}, 256, [&] {
    hb_attend(qkv.data(), keys.data(), values.data(), sinks.data(), past.data(), out.data(), softmax);
  });
}

void run_latent() {
  constexpr u32 kHeads = 3, kRank = 48, kNope = 16, kRope = 8, kWidth = kRank + kRope, kContext = 12;
  const auto q = randoms(kTokens * kHeads * (kNope + kRope)), low = randoms(kTokens * kWidth), angles = randoms(kTokens * 4);
  auto queries = randoms(kTokens * kHeads * kWidth), cache = randoms(kContext * kWidth);
  auto out = zeros<float>(kTokens * kHeads * kRank);
  const std::vector<i32> past{9};
  const Attend softmax{kHeads, 1, kWidth, kContext, 0, 0.2f, kHeads * kWidth, kRank, kWidth, 0};
  launch_on_host({kHeads + 1, kTokens}, 32, [&] {
    hb_place_latent(q.data(), low.data(), angles.data(), angles.data(), past.data(), queries.data(), cache.data(),
                    {kHeads, kRank, kNope, kRope, kRope});
  });
  launch_on_host({kHeads, kTokens}, 256, [&] {
    hb_attend_wide(queries.data(), cache.data(), cache.data(), nullptr, past.data(), out.data(), softmax);
  });
}

// Three tokens, states kept after the second and the last.
void run_recurrences() {
  constexpr u32 kHeads = 2, kKeys = 24, kValues = 40, kMixed = 2 * kHeads * kKeys + kHeads * kValues, kCount = 3;
  constexpr u32 kSlot = 3 * kMixed + kHeads * kKeys * kValues;
  const auto x = randoms(kCount * kMixed), taps = randoms(4 * kMixed), steps = randoms(kCount * kHeads * kKeys);
  const auto decay = randoms(kHeads * kKeys), skip = randoms(kHeads);
  auto states = randoms(4 * kSlot), mixed = zeros<float>(kCount * kMixed), out = zeros<float>(kCount * kHeads * kValues);
  const Passage passage{1, 2, {2, 3, 0}, {0, 3, 0}};
  const Taps how{kMixed, 4, kCount, kMixed, 0, 0, 1, kSlot};
  launch_on_host({1, kCount + 3 * kMostStops}, 256, [&] {
    hb_convolve(x.data(), taps.data(), kMixed, nullptr, states.data(), &passage, mixed.data(), how);
  });
  const RecurrenceAt at{mixed.data(), steps.data(), steps.data(), decay.data(), decay.data(), skip.data(),
                        states.data() + 3 * kMixed, out.data()};
  const Recurrence by_head{kHeads, kHeads, kKeys, kValues, kCount, kMixed, 0, kHeads * kKeys, 2 * kHeads * kKeys,
                           kHeads, 0, kHeads, kSlot};
  Recurrence by_key = by_head;
  by_key.gate_row = kHeads * kKeys;
  launch_on_host({kHeads, 2}, 512, [&] { hb_recur_gated_delta(at, &passage, by_head); });
  launch_on_host({kHeads, 2}, 512, [&] { hb_recur_kimi_delta(at, &passage, by_key); });
  launch_on_host({kHeads, 2}, 512, [&] { hb_recur_mamba2(at, &passage, by_head); });
  launch_on_host({kHeads, kCount}, 256, [&] {
    hb_gate_norm(out.data(), x.data(), decay.data(), {kKeys, kHeads, kMixed, 0, 1, 0, 1, 1e-6f});
  });
}

void run_dense() {
  constexpr u32 kWide = 300;
  auto x = randoms(kTokens * 2 * kWide), h = zeros<float>(kTokens * kWide);
  const auto weight = randoms(kWide), more = randoms(kTokens * kWide);
  launch_on_host({kTokens}, 256, [&] { hb_add_norm(h.data(), more.data(), weight.data(), weight.data(), 1e-6f, h.data(), kWide, kWide); });
  launch_on_host({kTokens}, 256, [&] {
    hb_join(h.data(), more.data(), {weight.data(), more.data(), weight.data(), weight.data(), kWide, 0.5f, 1e-6f});
  });
  launch_on_host({2, kTokens}, 256, [&] { hb_mlp_hidden(x.data(), h.data(), kWide, 1, {kSilu, INFINITY, 1.0f, 0.0f}); });
  launch_on_host({3}, 256, [&] { hb_add(h.data(), more.data(), kTokens * kWide); });
  launch_on_host({2, kTokens}, 256, [&] { hb_gate_rows(h.data(), weight.data(), kWide); });
}
}  // namespace

int main(int argc, char** argv) {
  shim_seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
  Layer gated({kHidden, kInter, kTopK, 1, 1}, {kSilu, 7.0f, 1.702f, 1.0f}), plain({kHidden, kInter, kTopK, 0, 0}, {kGeluTanh, INFINITY, 1.0f, 0.0f});
  const bool quick = argc > 2;
  run_experts(gated, quick);
  run_experts(plain, true);
  run_layer(gated);
  run_linear();
  run_attention();
  run_latent();
  run_recurrences();
  run_dense();
  std::puts("finished");
}
