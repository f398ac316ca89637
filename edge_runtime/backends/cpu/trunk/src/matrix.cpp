#include "matrix.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace hobbit {
namespace {

constexpr size_t kMost = size_t(1) << 32;  // inputs or outputs of a matrix

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument("DenseMatrix: " + message); }

size_t blocks_of(size_t inputs, int bits, size_t block) { return bits == 32 ? 1 : (inputs + block - 1) / block; }

size_t bytes_of_panel(size_t inputs, int bits, size_t block) {
  if (bits == 32) return inputs * kRows * sizeof(float);
  return blocks_of(inputs, bits, block) * (kRows * sizeof(float) + kRows * block * size_t(bits) / 8);
}

void check(size_t outputs, size_t inputs, int bits, size_t block) {
  if (outputs == 0 || inputs == 0 || outputs >= kMost || inputs >= kMost || outputs * inputs >= kMost * 16)
    refuse("sizes must be above 0 and their product below 2^36, got " + std::to_string(outputs) + " and " +
           std::to_string(inputs));
  if (bits != 32 && bits != 8 && bits != 4) refuse("bits must be 32, 8 or 4, got " + std::to_string(bits));
  if (bits != 32 && block != 16 && block != 32 && block != 64 && block != 128 && block != 256)
    refuse("block must be 16, 32, 64, 128 or 256, got " + std::to_string(block));
}

// Eight codes of 4 bits in order: the first four in the low halves of four bytes, the others in the high ones.
uint32_t halves(uint32_t codes) {
  const auto spread = [](uint32_t four) {
    four = (four | four << 8) & 0x00FF00FF;
    return (four | four << 4) & 0x0F0F0F0F;
  };
  return spread(codes & 0xFFFF) | spread(codes >> 16) << 4;
}

}  // namespace

size_t DenseMatrix::bytes_for(size_t outputs, size_t inputs, int bits, size_t block) {
  check(outputs, inputs, bits, block);
  return (outputs + kRows - 1) / kRows * bytes_of_panel(inputs, bits, block);
}

DenseMatrix::DenseMatrix(size_t outputs, size_t inputs, int bits, size_t block, const std::string& isa)
    : table_(find_dense(isa)),
      outputs_(outputs),
      inputs_(inputs),
      block_(bits == 32 ? inputs : block),
      blocks_(0),
      panel_bytes_(0),
      bits_(bits),
      pages_(bytes_for(outputs, inputs, bits, block), true) {
  blocks_ = blocks_of(inputs, bits, block);
  panel_bytes_ = bytes_of_panel(inputs, bits, block);
}

void DenseMatrix::put_floats(size_t first, size_t count, const float* rows) {
  if (bits_ != 32 || first + count > inputs_ || first + count < first) refuse("put_floats: rows beyond the matrix");
  for (size_t p = 0; p < panels(); ++p) {
    const size_t from = p * kRows, n = outputs_ - from < kRows ? outputs_ - from : kRows;
    float* out = reinterpret_cast<float*>(pages_.data() + p * panel_bytes_) + first * kRows;
    for (size_t i = 0; i < count; ++i) std::memcpy(out + i * kRows, rows + i * outputs_ + from, n * sizeof(float));
  }
}

void DenseMatrix::put_codes(size_t first, size_t count, const uint8_t* codes, const float* scales) {
  if (bits_ == 32 || first + count > outputs_ || first + count < first) refuse("put_codes: rows beyond the matrix");
  const uint32_t flip = bits_ == 8 && table_.zero8 == 0 ? 0x80808080 : 0;
  for (size_t i = 0, rows; i < count; i += rows) {  // panel by panel
    rows = std::min(kRows - (first + i) % kRows, count - i);
    const uint8_t* from = codes + i * blocks_ * block_ * size_t(bits_) / 8;
    if (bits_ == 8)
      put_panel(first + i, rows, from, scales + i * blocks_, [flip](uint32_t four) { return four ^ flip; });
    else
      put_panel(first + i, rows, from, scales + i * blocks_, halves);
  }
}

// Block by block: row by row would come to each line of the panel sixteen times.
template <class Packed>
void DenseMatrix::put_panel(size_t first, size_t count, const uint8_t* codes, const float* scales, Packed packed) {
  const size_t bytes = block_ * size_t(bits_) / 8;
  uint8_t* block = pages_.data() + first / kRows * panel_bytes_;
  for (size_t b = 0; b < blocks_; ++b, block += kRows * (sizeof(float) + bytes))
    for (size_t i = 0; i < count; ++i) {
      const size_t row = first % kRows + i;
      std::memcpy(block + row * sizeof(float), scales + i * blocks_ + b, sizeof(float));
      const uint8_t* from = codes + (i * blocks_ + b) * bytes;
      uint8_t* out = block + kRows * sizeof(float) + 4 * row;
      for (size_t at = 0; at < bytes; at += 4, out += 4 * kRows) {
        uint32_t word;
        std::memcpy(&word, from + at, 4);
        word = packed(word);
        std::memcpy(out, &word, 4);
      }
    }
}

void DenseMatrix::multiply(size_t panel, size_t panels, const float* x, size_t x_stride, const QuantRows& quantised,
                           size_t first, size_t count, float* out, size_t stride) const {
  const uint8_t* weights = pages_.data() + panel * panel_bytes_;
  if (bits_ == 32)
    return table_.floats(reinterpret_cast<const float*>(weights), inputs_, panels, x + first * x_stride, x_stride,
                         count, out, stride);
  const auto run = bits_ == 8 ? table_.codes8 : table_.codes4;
  for (size_t p = 0; p < panels; ++p) run(weights + p * panel_bytes_, quantised, first, count, out + p * kRows, stride);
}

void DenseMatrix::apply(const float* x, size_t tokens, float* out) const {
  std::vector<int8_t> q(bits_ == 32 ? 0 : tokens * blocks_ * block_);
  std::vector<float> scales(tokens * blocks_), product(tokens * kRows);
  std::vector<int32_t> sums(tokens * blocks_);
  const QuantRows rows{q.data(), scales.data(), sums.data(), blocks_, block_};
  for (size_t t = 0; t < tokens && bits_ != 32; ++t) table_.quantize(x + t * inputs_, inputs_, rows, t);
  for (size_t p = 0; p < panels(); ++p) {
    multiply(p, 1, x, inputs_, rows, 0, tokens, product.data(), kRows);
    const size_t first = p * kRows, n = std::min(kRows, outputs_ - first);
    for (size_t t = 0; t < tokens; ++t) std::copy_n(product.data() + t * kRows, n, out + t * outputs_ + first);
  }
}

}  // namespace hobbit
