#include "encoder.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "encode_fp4.hpp"
#include "isa.hpp"

namespace hobbit {
namespace {

const char* const kMatrixName[3] = {"gate", "up", "down"};
// 1e15: beyond any real weight, and squares of it still sum in float32.
constexpr uint32_t kLargest = 0x58635fa9;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument("ExpertEncoder: " + message); }

int check_threads(int threads) {
  if (threads < 1 || threads > 256) refuse("threads must be in 1..256, got " + std::to_string(threads));
  return threads;
}

float from_bits(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

uint32_t to_bits(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}

float from_f16(uint16_t h) {
  // Exponent and mantissa moved into place are 2^112 too small; infinities and nans need 255.
  const uint32_t magnitude = uint32_t(h & 0x7fff) << 13;
  const float v = (h & 0x7c00) == 0x7c00 ? from_bits(0x7f800000) : from_bits(magnitude) * 0x1p112f;
  return h & 0x8000 ? -v : v;
}

uint16_t round_bf16(float v) {
  const uint32_t bits = to_bits(v);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Reads 16 rows into tile[input][row], a group of inputs at a time so that what is written stays in the
// first cache; true when every value is finite and at most kLargest.
template <class T, class Convert>
bool transpose(const uint8_t* rows, size_t cols, float* tile, size_t& bad_row, Convert convert) {
  uint32_t top[kPanelRows]{};
  for (size_t start = 0; start < cols; start += kGroup)
    for (size_t r = 0; r < kPanelRows; ++r) {
      const uint8_t* from = rows + (r * cols + start) * sizeof(T);
      float values[kGroup];
      for (size_t i = 0; i < kGroup; ++i) {
        T raw;
        std::memcpy(&raw, from + i * sizeof(T), sizeof(T));
        values[i] = convert(raw);
        top[r] = std::max(top[r], to_bits(values[i]) & 0x7fffffff);
      }
      for (size_t i = 0; i < kGroup; ++i) tile[(start + i) * kPanelRows + r] = values[i];
    }
  for (size_t r = 0; r < kPanelRows; ++r)
    if (top[r] > kLargest) return bad_row = r, false;
  return true;
}

}  // namespace

ExpertEncoder::ExpertEncoder(int layer, int expert, const ExpertLayout& layout, int num_segments, bool bf16, int threads,
                             const std::string& isa)
    : layout_(layout),
      pool_(check_threads(threads)),
      encode_(find_kernels(isa).encode) {
  for (size_t dim : {layout.hidden, layout.intermediate})
    if (dim == 0 || dim % kGroup || dim > (1u << 20))
      refuse("hidden and intermediate must be positive multiples of 32 up to 1048576, got " + std::to_string(dim));
  if (num_segments < 1 || num_segments > 4)
    refuse("num_segments must be in 1..4, got " + std::to_string(num_segments));
  if (layout.fp4 && num_segments > 2)
    refuse("records of 4-bit floats have 1 or 2 segments, got " + std::to_string(num_segments));
  for (int s = 0; s < num_segments; ++s) segments_.emplace_back(layout_.segment_bytes(s));
  if (bf16) bf16_.resize(layout_.bf16_bytes());
  const size_t panels = layout_.wide() * layout_.panels(kUp) + layout_.panels(kDown);
  const size_t cols = std::max(layout.hidden, layout.intermediate);
  workers_.resize(size_t(threads));
  for (Worker& worker : workers_) {
    worker.tile.resize(cols * kPanelRows);
    worker.fits.resize(cols / kGroup * 3 * kPanelRows);
    if (layout.fp4) worker.codes.resize(cols * kPanelRows);
  }
  added_.resize(panels);
  stats_.resize(panels);
  bf16_sq_.resize(panels);
  reset(layer, expert);
}

void ExpertEncoder::reset(int layer, int expert) {
  if (layer < 0 || expert < 0)
    refuse("layer and expert must not be negative, got " + std::to_string(layer) + " and " + std::to_string(expert));
  std::fill(added_.begin(), added_.end(), uint8_t(0));
  std::fill_n(bias_added_, 3, false);
  finished_ = false;
  write_header(layer, expert);
}

void ExpertEncoder::write_header(int layer, int expert) {
  uint32_t words[kRecordHeader / 4] = {kRecordMagic, uint32_t(layer), uint32_t(expert)};
  std::memcpy(segments_[0].data(), words, sizeof words);  // x86 and the ARM targets are little-endian
}

void ExpertEncoder::check_matrix(int matrix, const char* call) const {
  if (matrix < kGate || matrix > kDown)
    refuse("matrix must be 0 (gate), 1 (up) or 2 (down), got " + std::to_string(matrix));
  if (matrix < layout_.first()) refuse("gate: these experts have no gate matrix");
  if (finished_) refuse(std::string(call) + " after finish(): call reset() first");
}

void ExpertEncoder::add_bias(int matrix, const float* values, size_t count) {
  check_matrix(matrix, "add_bias");
  const std::string name = std::string(kMatrixName[matrix]) + " bias";
  if (!layout_.bias) refuse(name + ": these experts have no biases");
  if (count != layout_.rows(matrix))
    refuse(name + ": expected " + std::to_string(layout_.rows(matrix)) + " numbers, got " + std::to_string(count));
  if (bias_added_[matrix]) refuse(name + " was added twice");
  for (size_t i = 0; i < count; ++i)
    if ((to_bits(values[i]) & 0x7fffffff) > kLargest)
      refuse(name + ": number " + std::to_string(i) + " is not finite (or beyond 1e15)");
  const size_t at = layout_.bias_offset(matrix), bytes = count * sizeof(float);
  std::memcpy(segments_[0].data() + layout_.bias_start(false) + at, values, bytes);
  if (!bf16_.empty()) std::memcpy(bf16_.data() + layout_.bias_start(true) + at, values, bytes);
  bias_added_[matrix] = true;
}

void ExpertEncoder::add_rows(int matrix, size_t row_start, const void* rows, size_t count, Source source) {
  check_matrix(matrix, "add_rows");
  const std::string name = kMatrixName[matrix];
  if (row_start % kPanelRows || count % kPanelRows || count == 0)
    refuse(name + ": row_start and row count must be multiples of 16, got " + std::to_string(row_start) + " and " +
           std::to_string(count));
  if (row_start + count > layout_.rows(matrix))
    refuse(name + ": rows " + std::to_string(row_start) + ".." + std::to_string(row_start + count) + " exceed " +
           std::to_string(layout_.rows(matrix)));
  const size_t first = row_start / kPanelRows, panels = count / kPanelRows;
  const size_t bytes = kPanelRows * layout_.cols(matrix) * source_bytes(source);
  for (size_t p = 0; p < panels; ++p)
    if (added_[panel_index(matrix, first + p)])
      refuse(name + ": row " + std::to_string((first + p) * kPanelRows) + " was added twice");

  // Panel by panel, to whoever is free: the threads share their cores with the one that reads and the one that writes.
  // All panels before a bad one were taken before it, so the first bad row is found whatever the order.
  std::vector<size_t> bad(size_t(pool_.size()), SIZE_MAX);
  std::atomic<size_t> next{0};
  auto job = [&](int thread) {
    for (size_t p; (p = next.fetch_add(1, std::memory_order_relaxed)) < panels;) {
      size_t row = 0;
      const uint8_t* from = static_cast<const uint8_t*>(rows) + p * bytes;
      if (encode_one(workers_[size_t(thread)], matrix, first + p, from, source, row)) continue;
      bad[size_t(thread)] = (first + p) * kPanelRows + row;
      next.store(panels, std::memory_order_relaxed);
    }
  };
  pool_.run_with_whoever_comes(job);
  const size_t worst = *std::min_element(bad.begin(), bad.end());
  const bool off_grid = worst != SIZE_MAX && std::any_of(workers_.begin(), workers_.end(), [&](const Worker& worker) {
    return worker.is_off_grid && bad[size_t(&worker - workers_.data())] == worst;
  });
  for (Worker& worker : workers_) worker.is_off_grid = false;
  if (off_grid)
    refuse(name + ": row " + std::to_string(worst) + " holds weights that are no 4-bit floats times a power of two");
  if (worst != SIZE_MAX)
    refuse(name + ": row " + std::to_string(worst) + " holds a non-finite weight (or one beyond 1e15)");
  for (size_t p = 0; p < panels; ++p) added_[panel_index(matrix, first + p)] = 1;
}

bool ExpertEncoder::encode_one(Worker& worker, int matrix, size_t panel, const uint8_t* rows, Source source,
                               size_t& bad_row) {
  const size_t cols = layout_.cols(matrix);
  float* tile = worker.tile.data();
  const bool finite =
      source == Source::f32 ? transpose<float>(rows, cols, tile, bad_row, [](float v) { return v; })
      : source == Source::f16 ? transpose<uint16_t>(rows, cols, tile, bad_row, from_f16)
                              : transpose<uint16_t>(rows, cols, tile, bad_row,
                                                    [](uint16_t h) { return from_bits(uint32_t(h) << 16); });
  if (!finite) return false;
  PanelTarget target{segments_[0].data() + layout_.meta_offset(matrix, panel), {}};
  const size_t at = layout_.plane_offset(matrix, panel);
  for (size_t s = 0; s < segments_.size(); ++s)
    target.plane[s] = segments_[s].data() + layout_.plane_start(int(s)) + at;
  PanelStats& stats = stats_[panel_index(matrix, panel)];
  if (!layout_.fp4)
    encode_(tile, layout_.groups(matrix), worker.fits.data(), target, stats);
  else if (!encode_fp4(tile, layout_.groups(matrix), worker.codes.data(), target, stats, bad_row))
    return worker.is_off_grid = true, false;
  if (!bf16_.empty()) write_bf16(tile, matrix, panel);
  return true;
}

void ExpertEncoder::write_bf16(const float* tile, int matrix, size_t panel) {
  const size_t count = layout_.cols(matrix) * kPanelRows;
  uint8_t* out = bf16_.data() + layout_.bf16_offset(matrix, panel);
  double sq = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint16_t h = round_bf16(tile[i]);
    std::memcpy(out + 2 * i, &h, 2);
    const double diff = double(tile[i]) - double(from_bits(uint32_t(h) << 16));
    sq += diff * diff;
  }
  bf16_sq_[panel_index(matrix, panel)] = sq;
}

void ExpertEncoder::finish() {
  if (finished_) refuse("finish() called twice: call reset() first");
  for (int m = layout_.first(); m <= kDown; ++m) {
    for (size_t p = 0; p < layout_.panels(m); ++p)
      if (!added_[panel_index(m, p)])
        refuse(std::string(kMatrixName[m]) + ": row " + std::to_string(p * kPanelRows) + " is missing");
    if (layout_.bias && !bias_added_[m]) refuse(std::string(kMatrixName[m]) + " bias is missing");
  }
  finished_ = true;
}

std::map<int, double> ExpertEncoder::errors() const {
  if (!finished_) refuse("errors: expected finish() before errors()");
  double total = 0, sq[5] = {};
  for (int m = layout_.first(); m <= kDown; ++m)
    for (size_t p = 0; p < layout_.panels(m); ++p) {
      const PanelStats& s = stats_[panel_index(m, p)];
      total += s.weight_sq;
      for (int k = 0; k < 4; ++k) sq[k] += s.residual_sq[k];
      sq[4] += bf16_sq_[panel_index(m, p)];
    }
  const auto relative = [&](double e) { return total > 0 ? std::sqrt(std::max(e, 0.0) / total) : 0.0; };
  std::map<int, double> out;
  for (int s = 0; s < num_segments(); ++s) out[2 * (s + 1)] = relative(sq[s]);
  if (!bf16_.empty()) out[16] = relative(sq[4]);
  return out;
}

}  // namespace hobbit
