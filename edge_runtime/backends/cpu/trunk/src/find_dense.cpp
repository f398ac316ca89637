#include "dense.hpp"
#include "isa.hpp"

namespace hobbit {

const DenseTable& find_dense(const std::string& isa) {
  const std::string name = find_kernels(isa).name;
  const DenseTable* const tables[] = {
#if defined(__x86_64__)
      &kDenseAvx512, &kDenseAvx2,
#elif defined(__aarch64__)
      &kDenseNeonI8mm, &kDenseNeon,
#endif
  };
  for (const DenseTable* table : tables)
    if (name == table->name) return *table;
  return kDenseScalar;
}

}  // namespace hobbit
