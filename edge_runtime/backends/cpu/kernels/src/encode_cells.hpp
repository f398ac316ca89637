// The two-bit table of a row: four levels, fitted to the weights of the cells they stand for. Included once by
// encode_impl.hpp, after encode_search.hpp.
namespace hobbit {
namespace {

// The two-bit table of each lane's row, in units of a.
struct Table {
  VF level[4];
};

inline VF look_up(const VF value[4], VF q) {
  VF found = value[0];
  for (int k = 1; k < 4; ++k) found = q >= float(4 * k) ? value[k] : found;
  return found;
}

// What a row's table is fitted to: sums of a (w - b) and of a^2 over the weights of each cell.
struct CellSums {
  VF dot[4]{}, sq[4]{};
};

inline void add_cells(const Group& g, VF a, VF b, CellSums& sums) {
  const VF inv = inverse(a, 1.0f);
  VF count[4]{}, above[4]{};
  for (size_t i = 0; i < kGroup; ++i) {
    const VF d = g.w[i] - b, q = round_clamp(d * inv, 15.0f);
    for (int c = 0; c < 4; ++c) {  // first over code 4 c and all above it
      const auto in = q >= float(4 * c);
      count[c] += in ? all(1) : all(0);
      above[c] += in ? d : all(0);
    }
  }
  for (int c = 0; c < 4; ++c) {
    sums.dot[c] += a * (c < 3 ? above[c] - above[c + 1] : above[c]);
    sums.sq[c] += a * a * (c < 3 ? count[c] - count[c + 1] : count[c]);
  }
}

// Entries in eighths of a; an unused cell gets its middle.
inline void fit_table(const CellSums& sums, VF entry[4]) {
  for (int k = 0; k < 4; ++k) {
    const VF dot = 8.0f * sums.dot[k], sq = sums.sq[k];
    entry[k] = round_clamp(sq > 0 ? dot / (sq > 0 ? sq : all(1)) : all(8 * (4.0f * float(k) + 1.5f)), 127.0f);
  }
}

}  // namespace
}  // namespace hobbit
