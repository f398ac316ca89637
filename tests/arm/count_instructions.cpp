// Runs one panel of the NEON unit over and over: run.sh counts the instructions that emulation executes. Arguments:
// tier, tokens, repetitions. Two runs that differ in repetitions alone differ by the instructions of the panels.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "isa.hpp"
#include "layout.hpp"

int main(int count, char** args) {
  using namespace hobbit;
  if (count != 4) return 2;
  const int tier = std::atoi(args[1]), repetitions = std::atoi(args[3]);
  const size_t tokens = size_t(std::atoi(args[2])), groups = 64;  // hidden 2048
  std::vector<uint8_t> bytes(kPanelMeta + groups * (kGroupMeta + 4 * kGroupPlane), 1);
  std::vector<ActGroup> acts(tokens * groups);
  std::vector<const ActGroup*> rows(tokens);
  for (size_t t = 0; t < tokens; ++t) rows[t] = acts.data() + t * groups;
  PanelRef panel{bytes.data(), {}};
  for (size_t k = 0; k < 4; ++k) panel.plane[k] = bytes.data() + kPanelMeta + groups * (kGroupMeta + k * kGroupPlane);
  std::vector<float> out(tokens * kPanelRows);
  for (int i = 0; i < repetitions; ++i)
    kNeonDotprodKernels.panel(tier, panel, rows.data(), tokens, groups, out.data(), kPanelRows);
  return 0;
}
