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

// What make_vectors.py writes before the outputs, in its order.
struct Case {
  std::string name;
  size_t hidden, intermediate, tokens, experts, top_k;
  hobbit::ExpertForm form;
  std::vector<std::vector<float>> sources, biases;  // one a matrix
  std::vector<std::vector<uint8_t>> parts;          // of each expert four segments, then its bfloat16 record
  std::vector<float> x, weights;
  std::vector<int32_t> starts, pairs;

  hobbit::ExpertLayout layout() const { return {hidden, intermediate, form.gated, form.bias, form.fp4}; }
  int planes() const { return form.fp4 ? 2 : 4; }
};

Case read_case(Reader& in, const std::string& path) {
  Case c{};
  c.name = path.substr(path.rfind('/') + 1);
  const std::vector<int32_t> dims = in.take<int32_t>(5), kind = in.take<int32_t>(4);
  c.hidden = size_t(dims[0]), c.intermediate = size_t(dims[1]), c.tokens = size_t(dims[2]);
  c.experts = size_t(dims[3]), c.top_k = size_t(dims[4]);
  const std::vector<float> numbers = in.take<float>(3);
  c.form = {kind[0] != 0, kind[1] != 0, hobbit::Activation(kind[2]), numbers[0], numbers[1], numbers[2], kind[3] != 0};
  const hobbit::ExpertLayout layout = c.layout();
  const size_t matrices = c.form.gated ? 3 : 2;
  for (size_t n = 0; n < matrices * c.experts; ++n) c.sources.push_back(in.take<float>(c.hidden * c.intermediate));
  for (size_t n = 0; n < (c.form.bias ? c.experts : 0); ++n)
    for (int m = layout.first(); m < 3; ++m) c.biases.push_back(in.take<float>(layout.rows(m)));
  for (size_t n = 0; n < c.experts; ++n) {
    for (int s = 0; s < 4; ++s) c.parts.push_back(in.take<uint8_t>(s < c.planes() ? layout.segment_bytes(s) : 0));
    c.parts.push_back(in.take<uint8_t>(layout.bf16_bytes()));
  }
  c.x = in.take<float>(c.tokens * c.hidden), c.weights = in.take<float>(c.tokens * c.top_k);
  c.starts = in.take<int32_t>(c.experts + 1), c.pairs = in.take<int32_t>(c.tokens * c.top_k);
  return c;
}

// The first expert alone: encoding is slow under emulation.
void check_encoder(const Case& c) {
  const hobbit::ExpertLayout layout = c.layout();
  hobbit::ExpertEncoder encoder(0, 0, layout, c.planes(), true, 2);
  for (int m = layout.first(); m < 3; ++m) {
    const size_t at = size_t(m - layout.first());
    encoder.add_rows(m, 0, c.sources[at].data(), layout.rows(m), hobbit::Source::f32);
    if (c.form.bias) encoder.add_bias(m, c.biases[at].data(), c.biases[at].size());
  }
  encoder.finish();
  for (int s = 0; s < c.planes(); ++s)
    expect(encoder.segment(s) == c.parts[size_t(s)], c.name + ": encoded segment " + std::to_string(s) + " differs");
  expect(encoder.bf16() == c.parts[4], c.name + ": encoded bfloat16 record differs");
}

void check_kernels(const Case& c, int tier, const std::vector<float>& reference, const std::vector<float>& native) {
  std::vector<uint64_t> segments(4 * c.experts);
  for (size_t n = 0; n < c.experts; ++n)
    for (size_t s = 0; s < 4; ++s)
      segments[4 * n + s] = reinterpret_cast<uint64_t>(c.parts[5 * n + (tier == 16 ? 4 : s)].data());
  for (const hobbit::KernelTable* table : hobbit::available_kernels()) {
    const std::string where = c.name + " tier " + std::to_string(tier) + " " + table->name;
    hobbit::ExpertKernels kernels({c.hidden, c.intermediate, c.top_k, c.tokens, c.form}, 2, table->name);
    std::vector<float> out(c.tokens * c.hidden);
    kernels.forward(c.x.data(), c.tokens,
                    {tier, segments.data(), c.starts.data(), c.pairs.data(), c.experts, c.pairs.size()}, c.weights.data(),
                    out.data());
    double worst = 0, peak = 0;
    for (size_t k = 0; k < out.size(); ++k) {
      worst = std::fmax(worst, std::fabs(double(out[k]) - double(reference[k])));
      peak = std::fmax(peak, std::fabs(double(reference[k])));
    }
    expect(worst <= kBound * peak, where + ": differs from the reference by " + std::to_string(worst / peak));
    expect(std::memcmp(out.data(), native.data(), out.size() * 4) == 0, where + ": bits differ from the host's kernels");
  }
}

void check_case(const char* path) {
  Reader in(path);
  const Case c = read_case(in, path);
  check_encoder(c);
  for (int tier : {2, 4, 6, 8, 16}) {
    if (c.form.fp4 && (tier == 6 || tier == 8)) continue;
    const auto reference = in.take<float>(c.tokens * c.hidden), native = in.take<float>(c.tokens * c.hidden);
    check_kernels(c, tier, reference, native);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string best = hobbit::available_kernels().front()->name;
  expect(best == argv[1], "expected " + std::string(argv[1]) + " to be found first, got " + best);
  expect(hobbit::crc32c(reinterpret_cast<const uint8_t*>("123456789"), 9, 0) == 0xE3069283, "crc32c of '123456789'");
  std::vector<uint8_t> data(20001);
  for (size_t k = 0; k < data.size(); ++k) data[k] = uint8_t(k * k >> 3);
  uint32_t parts = 0;
  for (size_t k = 0; k < data.size(); k += 667) parts = hobbit::crc32c(&data[k], std::min<size_t>(667, data.size() - k), parts);
  expect(hobbit::crc32c(data.data(), data.size(), 0) == parts, "crc32c in three streams differs from parts");
  uint32_t joined = 0;  // the same parts, last first
  for (size_t k = data.size() / 667 * 667 + 667; k >= 667; k -= 667) {
    const size_t from = k - 667, size = std::min<size_t>(667, data.size() - from);
    joined ^= hobbit::crc32c_shift(hobbit::crc32c(&data[from], size, 0), data.size() - from - size);
  }
  expect(joined == parts, "crc32c joined from parts in any order");
  for (int k = 2; k < argc; ++k) check_case(argv[k]);
  std::printf("%s: %d cases, %d failures\n", best.c_str(), argc - 2, failures);
  return failures != 0;
}
