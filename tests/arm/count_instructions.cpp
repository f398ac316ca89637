// Runs one panel of an instruction set over and over: run.sh counts the instructions that emulation executes. Arguments:
// instruction set, what (tier 2, 4 or 8 of experts; d8 or d4 of the dense part), tokens, repetitions. Two runs that
// differ in repetitions alone differ by the instructions of the panels.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "dense.hpp"
#include "isa.hpp"
#include "layout.hpp"

namespace {

using namespace hobbit;
constexpr size_t kInputs = 2048;

void run_expert(const KernelTable& table, int tier, size_t tokens, int repetitions) {
  const size_t groups = kInputs / kGroup;
  std::vector<uint8_t> bytes(kPanelMeta + groups * (kGroupMeta + 4 * kGroupPlane), 1);
  std::vector<ActGroup> acts(tokens * groups);
  std::vector<const ActGroup*> rows(tokens);
  for (size_t t = 0; t < tokens; ++t) rows[t] = acts.data() + t * groups;
  PanelRef panel{bytes.data(), {}};
  for (size_t k = 0; k < 4; ++k) panel.plane[k] = bytes.data() + kPanelMeta + groups * (kGroupMeta + k * kGroupPlane);
  std::vector<float> out(tokens * kPanelRows);
  for (int i = 0; i < repetitions; ++i)
    table.panel(tier, panel, rows.data(), tokens, groups, out.data(), kPanelRows);
}

void run_dense(const DenseTable& table, size_t bits, size_t tokens, int repetitions) {
  const size_t block = 32, blocks = kInputs / block;
  std::vector<uint8_t> weights(blocks * (4 * kRows + kRows * block * bits / 8), 1);
  std::vector<int8_t> q(tokens * kInputs, 1);
  std::vector<float> scale(tokens * blocks, 1.0f), out(tokens * kRows);
  std::vector<int32_t> sum(tokens * blocks, 1);
  const QuantRows x{q.data(), scale.data(), sum.data(), blocks, block};
  for (int i = 0; i < repetitions; ++i)
    (bits == 8 ? table.codes8 : table.codes4)(weights.data(), x, 0, tokens, out.data(), kRows);
}

}  // namespace

int main(int count, char** args) {
  if (count != 5) return 2;
  const std::string what = args[2];
  const size_t tokens = size_t(std::atoi(args[3]));
  const int repetitions = std::atoi(args[4]);
  if (what[0] == 'd') run_dense(find_dense(args[1]), size_t(std::atoi(what.c_str() + 1)), tokens, repetitions);
  else run_expert(find_kernels(args[1]), std::atoi(what.c_str()), tokens, repetitions);
  return 0;
}
