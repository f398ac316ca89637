// What a caller may ask of the expert kernels: everything is looked at before anything is computed.
#include "expert_checks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "experts.hpp"

namespace hobbit {
namespace {

size_t check_dim(const char* name, size_t value) {
  if (value == 0 || value % kGroup != 0 || value > (1u << 20))
    reject(std::string("ExpertKernels: ") + name + " must be a positive multiple of 32 up to 1048576, got " +
           std::to_string(value));
  return value;
}

size_t check_count(const char* name, size_t value, size_t top) {
  if (value == 0 || value > top)
    reject(std::string("ExpertKernels: ") + name + " must be in 1.." + std::to_string(top) + ", got " +
           std::to_string(value));
  return value;
}

ExpertForm checked(const ExpertForm& form) {
  if (!(form.limit > 0)) reject("ExpertKernels: limit must be above 0, got " + std::to_string(form.limit));
  if (!(form.alpha > 0 && std::isfinite(form.alpha)))
    reject("ExpertKernels: alpha must be above 0 and finite, got " + std::to_string(form.alpha));
  if (!std::isfinite(form.up_offset)) reject("ExpertKernels: up_offset must be finite");
  return form;
}

}  // namespace

Shape checked(const Shape& s) {
  return {check_dim("hidden", s.hidden), check_dim("intermediate", s.intermediate),
          check_count("top_k", s.top_k, 1024), check_count("max_tokens", s.max_tokens, 1u << 20), checked(s.form)};
}

void ExpertKernels::check_tokens(size_t tokens) const {
  if (tokens == 0 || tokens > shape_.max_tokens)
    reject("quantize: expected 1.." + std::to_string(shape_.max_tokens) + " tokens (max_tokens), got " +
           std::to_string(tokens));
}

void ExpertKernels::check_begun(const char* call, size_t tokens) const {
  if (tokens != tokens_ || weights_.size() < tokens * shape_.top_k)
    reject(std::string(call) + ": expected " + std::to_string(tokens_) + " tokens (as in begin), got " +
           std::to_string(tokens));
}

void ExpertKernels::check(const Batch& b, size_t tokens) {
  if (b.tier != 2 && b.tier != 4 && b.tier != 6 && b.tier != 8 && b.tier != 16)
    reject("run: tier must be one of 2, 4, 6, 8, 16, got " + std::to_string(b.tier));
  if (layout_.fp4 && (b.tier == 6 || b.tier == 8))
    reject("run: records of 4-bit floats have tiers 2, 4 and 16, got " + std::to_string(b.tier));
  if (tokens == 0) reject("run: expected quantize() before run()");
  const int used = b.tier == 16 ? 1 : b.tier / 2;
  if (b.starts[0] != 0 || size_t(b.starts[b.count]) != b.num_pairs)
    reject("run: starts must begin at 0 and end at " + std::to_string(b.num_pairs) + " pairs, got " +
           std::to_string(b.starts[0]) + " and " + std::to_string(b.starts[b.count]));
  for (size_t n = 0; n < b.count; ++n) {
    if (b.starts[n] > b.starts[n + 1])
      reject("run: starts must not decrease, they do at expert " + std::to_string(n));
    for (int s = 0; s < used; ++s)
      if (b.segments[4 * n + size_t(s)] == 0)
        reject("run: segment " + std::to_string(s) + " of expert " + std::to_string(n) + " has address 0 at tier " +
               std::to_string(b.tier));
    uint32_t magic = kRecordMagic;
    if (b.tier != 16) std::memcpy(&magic, reinterpret_cast<const void*>(b.segments[4 * n]), 4);
    if (magic != kRecordMagic)
      reject("run: segment 0 of expert " + std::to_string(n) + " does not start with HBR1");
  }
  if (++stamp_ == 0) {  // after 2^32 calls old stamps could look new
    std::fill_n(seen_, shape_.max_tokens * shape_.top_k, 0u);
    stamp_ = 1;
  }
  const size_t limit = tokens * shape_.top_k;
  for (size_t i = 0; i < b.num_pairs; ++i) {
    if (b.pairs[i] < 0 || size_t(b.pairs[i]) >= limit)
      reject("run: pair index must be in 0.." + std::to_string(limit - 1) + " (" + std::to_string(tokens) +
             " tokens), got " + std::to_string(b.pairs[i]));
    uint32_t& seen = seen_[b.pairs[i]];
    if (seen == stamp_) reject("run: pair " + std::to_string(b.pairs[i]) + " occurs twice in one call");
    seen = stamp_;
  }
}

}  // namespace hobbit
