// CRC-32C with the CPU's instruction where it has one. The instruction takes 3 cycles but one can
// start every cycle, so three streams run side by side and are joined by a zero-advance table.
#include "crc32c.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HOBBIT_CRC_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define HOBBIT_CRC_TARGET __attribute__((target("+crc")))
#endif

namespace hobbit {
namespace {

constexpr uint32_t kPoly = 0x82F63B78;  // reflected Castagnoli polynomial
constexpr size_t kLane = 2048;          // bytes of one of the three streams
constexpr size_t kLine = 64;            // bytes of a cache line, or a few of them
constexpr size_t kAhead = 4 * kLane;    // bytes that come from memory had better be asked for so much sooner

struct Tables {
  uint32_t byte[8][256];  // slicing by eight
  uint32_t zeros[4][256]; // effect of kLane zero bytes, per byte of the state
  Tables() {
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = (c >> 1) ^ (kPoly & (0u - (c & 1)));
      byte[0][i] = c;
    }
    for (int k = 1; k < 8; ++k)
      for (int i = 0; i < 256; ++i) byte[k][i] = (byte[k - 1][i] >> 8) ^ byte[0][byte[k - 1][i] & 255];
    uint32_t column[32];  // the advance is linear: follow each single bit
    for (int b = 0; b < 32; ++b) {
      uint32_t c = 1u << b;
      for (size_t i = 0; i < kLane; ++i) c = (c >> 8) ^ byte[0][c & 255];
      column[b] = c;
    }
    for (int k = 0; k < 4; ++k)
      for (uint32_t i = 0; i < 256; ++i) {
        uint32_t c = 0;
        for (int b = 0; b < 8; ++b) c ^= column[8 * k + b] & (0u - ((i >> b) & 1));
        zeros[k][i] = c;
      }
  }
  uint32_t advance(uint32_t c) const {
    return zeros[0][c & 255] ^ zeros[1][(c >> 8) & 255] ^ zeros[2][(c >> 16) & 255] ^ zeros[3][c >> 24];
  }
};

const Tables& tables() {
  static const Tables t;
  return t;
}

uint64_t load64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

uint32_t crc_table(const Tables& t, const uint8_t* p, size_t n, uint32_t c) {
  for (; n >= 8; n -= 8, p += 8) {
    const uint64_t v = load64(p) ^ c;
    c = 0;
    for (int k = 0; k < 8; ++k) c ^= t.byte[7 - k][(v >> (8 * k)) & 255];
  }
  while (n--) c = (c >> 8) ^ t.byte[0][(c ^ *p++) & 255];
  return c;
}

#if defined(HOBBIT_CRC_TARGET)
#if defined(__x86_64__)
HOBBIT_CRC_TARGET inline uint32_t step8(uint32_t c, uint64_t v) { return uint32_t(_mm_crc32_u64(c, v)); }
HOBBIT_CRC_TARGET inline uint32_t step1(uint32_t c, uint8_t v) { return _mm_crc32_u8(c, v); }
bool has_crc() { return __builtin_cpu_supports("sse4.2"); }
#else
HOBBIT_CRC_TARGET inline uint32_t step8(uint32_t c, uint64_t v) { return __builtin_aarch64_crc32cx(c, v); }
HOBBIT_CRC_TARGET inline uint32_t step1(uint32_t c, uint8_t v) { return __builtin_aarch64_crc32cb(c, v); }
bool has_crc() { return getauxval(AT_HWCAP) & HWCAP_CRC32; }
#endif

HOBBIT_CRC_TARGET uint32_t crc_hardware(const Tables& t, const uint8_t* p, size_t n, uint32_t a) {
  for (; n >= 3 * kLane; n -= 3 * kLane, p += 3 * kLane) {
    uint32_t b = 0, c = 0;
    for (size_t line = 0; line < kLane; line += kLine) {
      for (size_t lane = 0; lane < 3; ++lane) __builtin_prefetch(p + lane * kLane + line + kAhead);
      for (size_t i = line; i < line + kLine; i += 8) {
        a = step8(a, load64(p + i));
        b = step8(b, load64(p + kLane + i));
        c = step8(c, load64(p + 2 * kLane + i));
      }
    }
    a = t.advance(t.advance(a) ^ b) ^ c;
  }
  for (; n >= 8; n -= 8, p += 8) a = step8(a, load64(p));
  while (n--) a = step1(a, *p++);
  return a;
}
#endif

// Product of two polynomials modulo the CRC's, both reflected: the highest bit is the coefficient of x^0.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ (kPoly & (0u - (b & 1)));
  }
  return product;
}

struct Powers {
  uint32_t of[64];  // x^(2^k)
  Powers() {
    of[0] = 1u << 30;
    for (int k = 1; k < 64; ++k) of[k] = multiply(of[k - 1], of[k - 1]);
  }
};

}  // namespace

uint32_t crc32c_shift(uint32_t crc, size_t bytes) {
  static const Powers powers;
  for (int k = 3; bytes != 0; bytes >>= 1, ++k)  // x^8 a byte
    if (bytes & 1) crc = multiply(powers.of[k], crc);
  return crc;
}

uint32_t crc32c(const uint8_t* data, size_t n, uint32_t value) {
  const Tables& t = tables();
#if defined(HOBBIT_CRC_TARGET)
  static const bool hardware = has_crc();
  if (hardware) return ~crc_hardware(t, data, n, ~value);
#endif
  return ~crc_table(t, data, n, ~value);
}

}  // namespace hobbit
