// Runs the kernels and the encoder on the cases of make_vectors.py. Arguments: the instruction set
// that must be found first, then case files. Exit 0 when everything agrees.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../../edge_runtime/base/src/crc32c.hpp"
#include "encoder.hpp"
#include "experts.hpp"

namespace {

constexpr double kBound = 2e-3;  // reference.KERNEL_BOUND
int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

struct Reader {
  std::vector<char> bytes;
  size_t at = 0;
  explicit Reader(const char* path) {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  template <class T> std::vector<T> take(size_t count) {
    if (at + count * sizeof(T) > bytes.size()) std::printf("FAILED: case file too short\n"), std::exit(1);
    std::vector<T> out(count);
    std::memcpy(out.data(), bytes.data() + at, count * sizeof(T));
    at += count * sizeof(T);
    return out;
  }
};

void check_case(const char* path) {
  Reader in(path);
  const std::vector<int32_t> dims = in.take<int32_t>(5);
  const size_t d = size_t(dims[0]), i = size_t(dims[1]), tokens = size_t(dims[2]);
  const size_t experts = size_t(dims[3]), top_k = size_t(dims[4]);
  const std::vector<int32_t> kind = in.take<int32_t>(4);
  const std::vector<float> numbers = in.take<float>(3);
  const hobbit::ExpertForm form{kind[0] != 0, kind[1] != 0, hobbit::Activation(kind[2]), numbers[0], numbers[1], numbers[2],
                                kind[3] != 0};
  const hobbit::ExpertLayout layout{d, i, form.gated, form.bias, form.fp4};
  const int planes = form.fp4 ? 2 : 4;
  const size_t matrices = form.gated ? 3 : 2;
  const std::string name = std::string(path).substr(std::string(path).rfind('/') + 1);

  std::vector<std::vector<float>> sources;
  for (size_t n = 0; n < matrices * experts; ++n) sources.push_back(in.take<float>(d * i));
  std::vector<std::vector<float>> biases;
  for (size_t n = 0; n < (form.bias ? experts : 0); ++n)
    for (int m = layout.first(); m < 3; ++m) biases.push_back(in.take<float>(layout.rows(m)));
  std::vector<std::vector<uint8_t>> parts;
  for (size_t n = 0; n < experts; ++n) {
    for (int s = 0; s < 4; ++s) parts.push_back(in.take<uint8_t>(s < planes ? layout.segment_bytes(s) : 0));
    parts.push_back(in.take<uint8_t>(layout.bf16_bytes()));
  }
  const auto x = in.take<float>(tokens * d), weights = in.take<float>(tokens * top_k);
  const auto starts = in.take<int32_t>(experts + 1), pairs = in.take<int32_t>(tokens * top_k);

  hobbit::ExpertEncoder encoder(0, 0, layout, planes, true, 2);
  for (size_t n = 0; n < 1; ++n) {  // encoding is slow under emulation
    for (int m = layout.first(); m < 3; ++m) {
      const size_t at = matrices * n + size_t(m - layout.first());
      encoder.add_rows(m, 0, sources[at].data(), layout.rows(m), hobbit::Source::f32);
      if (form.bias) encoder.add_bias(m, biases[at].data(), biases[at].size());
    }
    encoder.finish();
    for (int s = 0; s < planes; ++s)
      expect(encoder.segment(s) == parts[5 * n + size_t(s)], name + ": encoded segment " + std::to_string(s) + " differs");
    expect(encoder.bf16() == parts[5 * n + 4], name + ": encoded bfloat16 record differs");
  }

  for (int tier : {2, 4, 6, 8, 16}) {
    if (form.fp4 && (tier == 6 || tier == 8)) continue;
    const auto reference = in.take<float>(tokens * d), native = in.take<float>(tokens * d);
    std::vector<uint64_t> segments(4 * experts);
    for (size_t n = 0; n < experts; ++n)
      for (size_t s = 0; s < 4; ++s)
        segments[4 * n + s] = reinterpret_cast<uint64_t>(parts[5 * n + (tier == 16 ? 4 : s)].data());
    for (const hobbit::KernelTable* table : hobbit::available_kernels()) {
      const std::string where = name + " tier " + std::to_string(tier) + " " + table->name;
      hobbit::ExpertKernels kernels({d, i, top_k, tokens, form}, 2, table->name);
      std::vector<float> out(tokens * d);
      kernels.forward(x.data(), tokens, {tier, segments.data(), starts.data(), pairs.data(), experts, pairs.size()},
                      weights.data(), out.data());
      double worst = 0, peak = 0;
      for (size_t k = 0; k < out.size(); ++k) {
        worst = std::fmax(worst, std::fabs(double(out[k]) - double(reference[k])));
        peak = std::fmax(peak, std::fabs(double(reference[k])));
      }
      expect(worst <= kBound * peak, where + ": differs from the reference by " + std::to_string(worst / peak));
      expect(std::memcmp(out.data(), native.data(), out.size() * 4) == 0, where + ": bits differ from the host's kernels");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string best = hobbit::available_kernels().front()->name;
  expect(best == argv[1], "expected " + std::string(argv[1]) + " to be found first, got " + best);
  expect(hobbit::crc32c(reinterpret_cast<const uint8_t*>("123456789"), 9, 0) == 0xE3069283, "crc32c of '123456789'");
  std::vector<uint8_t> data(20001);
  for (size_t k = 0; k < data.size(); ++k) data[k] = uint8_t(k * k >> 3);
  uint32_t pieces = 0;
  for (size_t k = 0; k < data.size(); k += 667) pieces = hobbit::crc32c(&data[k], std::min<size_t>(667, data.size() - k), pieces);
  expect(hobbit::crc32c(data.data(), data.size(), 0) == pieces, "crc32c in three streams differs from pieces");
  uint32_t joined = 0;  // the same pieces, last first
  for (size_t k = data.size() / 667 * 667 + 667; k >= 667; k -= 667) {
    const size_t from = k - 667, size = std::min<size_t>(667, data.size() - from);
    joined ^= hobbit::crc32c_shift(hobbit::crc32c(&data[from], size, 0), data.size() - from - size);
  }
  expect(joined == pieces, "crc32c joined from pieces in any order");
  for (int k = 2; k < argc; ++k) check_case(argv[k]);
  std::printf("%s: %d cases, %d failures\n", best.c_str(), argc - 2, failures);
  return failures != 0;
}
