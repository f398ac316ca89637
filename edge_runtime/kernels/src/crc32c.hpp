#pragma once
#include <cstddef>
#include <cstdint>

namespace hobbit {
// CRC-32C (Castagnoli) of `n` bytes, continuing from `value` (0 to start).
uint32_t crc32c(const uint8_t* data, size_t n, uint32_t value);
}  // namespace hobbit
