// A dense matrix in the layout its kernel reads: panels of 16 output rows, filled block by block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "dense.hpp"
#include "pages.hpp"

namespace hobbit {

class DenseMatrix {
 public:
  // `bits` is 32 for floats, 8 or 4 for codes with a scale for every `block` inputs. Throws std::invalid_argument.
  DenseMatrix(size_t outputs, size_t inputs, int bits, size_t block, const std::string& isa);

  static size_t bytes_for(size_t outputs, size_t inputs, int bits, size_t block);

  // Rows first .. first + count - 1 of the stored matrix: float [inputs, outputs], so rows are inputs.
  void put_floats(size_t first, size_t count, const float* rows);
  // The same of codes [outputs, blocks, block * bits / 8] and scales [outputs, blocks]: rows are outputs.
  void put_codes(size_t first, size_t count, const uint8_t* codes, const float* scales);

  // x float [T, inputs] times the matrix, in out float [T, outputs].
  void apply(const float* x, size_t tokens, float* out) const;

  size_t outputs() const { return outputs_; }
  size_t inputs() const { return inputs_; }
  int bits() const { return bits_; }
  size_t block() const { return block_; }
  size_t blocks() const { return blocks_; }
  size_t panels() const { return (outputs_ + kRows - 1) / kRows; }
  size_t panel_bytes() const { return panel_bytes_; }
  size_t nbytes() const { return pages_.size(); }
  const char* isa() const { return table_.name; }

  // out[t * stride + r] of rows first .. first + count - 1, for one panel or two.
  void multiply(size_t panel, size_t panels, const float* x, size_t x_stride, const QuantRows& quantised, size_t first,
                size_t count, float* out, size_t stride) const;

 private:
  template <class Packed>
  void put_panel(size_t first, size_t count, const uint8_t* codes, const float* scales, Packed packed);

  const DenseTable& table_;
  size_t outputs_, inputs_, block_, blocks_, panel_bytes_;
  int bits_;
  Pages pages_;
};

}  // namespace hobbit
