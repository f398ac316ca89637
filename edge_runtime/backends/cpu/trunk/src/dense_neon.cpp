// ARMv8.2 with the dot product extension.
#include "neon_dense.hpp"

namespace hobbit {
namespace {

struct Neon : NeonDense {
  static constexpr bool kPairs = false;
};

}  // namespace

HOBBIT_DENSE_TABLE(kDenseNeon, Neon, "neon-dotprod");

}  // namespace hobbit
