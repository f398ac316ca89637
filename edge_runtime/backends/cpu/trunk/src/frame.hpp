// What a chunk of one sequence keeps between the calls for its layers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pages.hpp"

namespace hobbit {

// Where a layer's keys and values lie: float [G, slots, C].
struct Cache {
  float *keys = nullptr, *values = nullptr;
};

// Where a layer's states of fixed size lie within a slot, in numbers; below 0: it has none.
struct StatePlace {
  int64_t conv = -1, state = -1;
};

// States after so many tokens of the chunk go to a slot.
struct Stop {
  size_t tokens, slot;
};

class Frame {
 public:
  // Room for chunks of up to `most` tokens; `angles` has half the rotated numbers of each rope.
  Frame(size_t most, size_t hidden, size_t experts, bool router_norm, const std::vector<size_t>& angles)
      : most(most), hidden(hidden), experts(experts), router_norm(router_norm), angle_widths(angles),
        pages_(bytes(most, hidden, experts, router_norm, angles)) {
    float* at = reinterpret_cast<float*>(pages_.data());
    const auto take = [&](size_t width) {
      float* found = at;
      at += round_up(most * width);
      return found;
    };
    resid = take(hidden), x = take(hidden), y = take(hidden), router_logits = take(experts);
    router_x = take(router_norm ? hidden : 0);
    for (size_t width : angles) cos.push_back(take(width)), sin.push_back(take(width));
  }

  static size_t bytes(size_t most, size_t hidden, size_t experts, bool router_norm, const std::vector<size_t>& angles) {
    size_t numbers = 3 * round_up(most * hidden) + round_up(most * experts) + round_up(router_norm ? most * hidden : 0);
    for (size_t width : angles) numbers += 2 * round_up(most * width);
    return numbers * sizeof(float);
  }

  const size_t most, hidden, experts;
  const bool router_norm;
  const std::vector<size_t> angle_widths;
  float *resid, *x, *y, *router_logits, *router_x;  // [T, ...]
  std::vector<float*> cos, sin;                     // of each rope [T, rotated / 2]

  size_t tokens = 0, start = 0;  // of this chunk; those before it
  size_t slots = 0;              // of the cache
  std::vector<Cache> caches;     // by layer
  std::vector<float*> state_slots;        // each the states of all layers
  std::vector<StatePlace> state_places;   // by layer
  size_t state_slot = 0;                  // of the states before the chunk
  std::vector<Stop> stops;                // in order, the last one at its end

  void release() { pages_.release(); }

 private:
  static size_t round_up(size_t n) { return (n + 15) / 16 * 16; }
  Pages pages_;
};

}  // namespace hobbit
