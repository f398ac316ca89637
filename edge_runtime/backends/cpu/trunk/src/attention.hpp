// Room that a thread needs while it attends.
#pragma once
#include <cstddef>

#include "dense.hpp"

namespace hobbit {

constexpr size_t kQueryRows = 32;  // queries of a key head that share a walk over its keys

inline size_t padded_dim(size_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Numbers: queries, sums, a tile of keys, scores, and a row of zeros.
inline size_t attention_room(size_t head_dim) {
  return head_dim == 0 ? 0 : padded_dim(head_dim) * (2 * kQueryRows + kTile + 1) + kQueryRows * kTile;
}

}  // namespace hobbit
