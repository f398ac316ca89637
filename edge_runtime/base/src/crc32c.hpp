#pragma once
#include <cstddef>
#include <cstdint>

namespace hobbit {
// CRC-32C (Castagnoli) of `n` bytes, continuing from `value` (0 to start).
uint32_t crc32c(const uint8_t* data, size_t n, uint32_t value);
// What a CRC contributes to that of longer data: crc32c(A, B) = crc32c_shift(crc32c(A), bytes of B) ^ crc32c(B). So the
// sum of parts that come in any order is the exclusive or of each, shifted by what follows it.
uint32_t crc32c_shift(uint32_t crc, size_t bytes);
}  // namespace hobbit
