// Turns the rows of one expert, in any order, into its progressive (and bfloat16) record.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "encode_panel.hpp"
#include "layout.hpp"
#include "pool.hpp"

namespace hobbit {

enum class Source { f32, f16, bf16 };
constexpr size_t source_bytes(Source s) { return s == Source::f32 ? 4 : 2; }

class ExpertEncoder {
 public:
  ExpertEncoder(int layer, int expert, const ExpertLayout& layout, int num_segments, bool bf16, int threads,
                const std::string& isa = "auto");

  // `rows` is [count, cols(matrix)], contiguous. Throws std::invalid_argument; rows of a refused
  // call do not count as added.
  void add_rows(int matrix, size_t row_start, const void* rows, size_t count, Source source);
  void add_bias(int matrix, const float* values, size_t count);
  void finish();
  void reset(int layer, int expert);
  std::map<int, double> errors() const;

  const ExpertLayout& layout() const { return layout_; }
  int num_segments() const { return int(segments_.size()); }
  const std::vector<uint8_t>& segment(int i) const { return segments_[size_t(i)]; }
  const std::vector<uint8_t>& bf16() const { return bf16_; }
  bool finished() const { return finished_; }

 private:
  struct Worker {
    std::vector<float> tile, fits;
    std::vector<uint8_t> codes;  // of records of 4-bit floats
    bool is_off_grid = false;
  };
  size_t panel_index(int matrix, size_t panel) const {
    return size_t(matrix - layout_.first()) * layout_.panels(kUp) + panel;
  }
  void check_matrix(int matrix, const char* call) const;
  bool encode_one(Worker& worker, int matrix, size_t panel, const uint8_t* rows, Source source, size_t& bad_row);
  void write_bf16(const float* tile, int matrix, size_t panel);
  void write_header(int layer, int expert);

  ExpertLayout layout_;
  Pool pool_;
  EncodePanel encode_;
  std::vector<std::vector<uint8_t>> segments_;
  std::vector<uint8_t> bf16_;
  std::vector<Worker> workers_;
  std::vector<uint8_t> added_;        // per panel, gate then up then down
  bool bias_added_[3] = {};
  std::vector<PanelStats> stats_;
  std::vector<double> bf16_sq_;       // sum (w - bf16(w))^2 per panel
  bool finished_ = false;
};

}  // namespace hobbit
