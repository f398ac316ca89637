#include "isa.hpp"

#include <stdexcept>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#ifndef HWCAP2_I8MM  // headers of kernels before 5.10
#define HWCAP2_I8MM (1 << 13)
#endif
#endif

namespace hobbit {

static std::vector<const KernelTable*> detect() {
  std::vector<const KernelTable*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    found.push_back(&kAvx512VnniKernels);
  if (avx2) found.push_back(&kAvx2Kernels);
#elif defined(__aarch64__)
  const bool dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
  if (dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM)) found.push_back(&kNeonI8mmKernels);
  if (dotprod) found.push_back(&kNeonDotprodKernels);
#endif
  found.push_back(&kScalarKernels);
  return found;
}

const std::vector<const KernelTable*>& available_kernels() {
  static const std::vector<const KernelTable*> list = detect();
  return list;
}

Hidden hidden_of(const KernelTable& table, const ExpertForm& form) {
  if (form.plain()) return table.swiglu;
  return (form.gated ? table.forms->gated : table.forms->ungated)[int(form.activation)];
}

const KernelTable& find_kernels(const std::string& name) {
  std::string known;
  for (const KernelTable* table : available_kernels()) {
    if (name == "auto" || name == table->name) return *table;
    known += known.empty() ? table->name : std::string(", ") + table->name;
  }
  throw std::invalid_argument("isa: expected one of auto, " + known + ", got '" + name + "'");
}

}  // namespace hobbit
