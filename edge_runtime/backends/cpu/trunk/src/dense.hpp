// The functions of the dense part that every instruction set provides.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace hobbit {

constexpr size_t kRows = 16;  // output rows of a panel
constexpr size_t kTile = 32;  // keys that attention looks at together

// Rows of activations as int8, with one scale for each block of inputs.
struct QuantRows {
  int8_t* q;       // [T, blocks * block], zeros behind the last input
  float* scale;    // [T, blocks], max|x| / 127
  int32_t* sum;    // [T, blocks], of q
  size_t blocks, block;
};

// What becomes of a product: out = cap(factor * (product + bias)), or is added to what is there.
struct Target {
  float* out;
  size_t stride;
  const float* bias = nullptr;
  float factor = 1.0f, cap = 0.0f;  // cap 0: none
  bool adds = false;
};

// What a token does to a head's state of recurrence: S = kept * S, row by row, and key times a change is added to it. The
// change is rate * value or, where it corrects, rate * (value - S^T key). The output is S^T query.
struct Step {
  const float* kept;
  size_t kept_step;  // 1: a number for each row, 0: one for all
  const float *key, *query, *value;
  float rate;
  bool corrects;
};

// A row is computed alike however many are computed together, and alike on every instruction set: integer dots are
// exact, float operations are the same in the same order for each output.
struct DenseTable {
  const char* name;
  int zero8;  // codes of 8 bits are stored with this added to the weight

  // out[t * stride + r] = dot(row r of one or two panels float [inputs][16], row t of x).
  void (*floats)(const float* weights, size_t inputs, size_t panels, const float* x, size_t x_stride, size_t count,
                 float* out, size_t stride);
  // The same of a panel of codes, for rows first .. first + count - 1 of x.
  void (*codes8)(const uint8_t* weights, const QuantRows& x, size_t first, size_t count, float* out, size_t stride);
  void (*codes4)(const uint8_t* weights, const QuantRows& x, size_t first, size_t count, float* out, size_t stride);
  void (*quantize)(const float* x, size_t inputs, const QuantRows& out, size_t row);
  void (*finish)(const float* product, size_t n, const Target& to, size_t row, size_t first);

  // RMS norm, or LayerNorm where `centred`; gamma and bias may be null.
  void (*norm)(const float* x, size_t n, const float* gamma, const float* bias, float eps, bool centred, float* out);
  float (*dot)(const float* a, const float* b, size_t n);
  void (*add)(float* into, const float* more, size_t n, float factor);
  void (*scale)(float* x, size_t n, float factor);
  void (*clip)(float* x, size_t n, float limit);
  void (*gate)(float* x, const float* gate, size_t n);  // x *= sigmoid(gate)
  void (*rotate)(float* head, const float* cos, const float* sin, size_t half, bool pairs);

  // Sixteen rows of `dim` numbers become a panel [dim][16].
  void (*transpose)(const float* const* rows, size_t dim, float* panel);
  // Scores [kTile], of which those in [from, to) are seen, become weights; `top` and `total` run along. Returns what
  // earlier weights are multiplied by.
  float (*soften)(float* scores, size_t from, size_t to, float* top, float* total);
  // acc[r] = acc[r] * factor[r] + sum over keys of weights[r * kTile + key] * values[key].
  void (*weigh)(const float* values, size_t stride, size_t keys, const float* weights, const float* factor, size_t rows,
                size_t dim, float* acc);

  // out[i] = sum over j, in order, of taps[j * n + i] * rows[j][i], plus the bias there may be, through SiLU if asked.
  void (*convolve)(const float* const* rows, const float* taps, size_t kernel, size_t n, const float* bias, bool silu,
                   float* out);
  // x[i] = exp(decay[i] * softplus(x[i] + bias[i])); `steps` gets the softplus unless it is null.
  void (*fade)(float* x, const float* bias, const float* decay, size_t n, float* steps);
  // A token's step from one state [keys][values] to the next; they may be the same.
  void (*recur)(const float* from, float* to, size_t keys, size_t values, const Step& step, float* out);
};

extern const DenseTable kDenseScalar;
#if defined(__x86_64__)
extern const DenseTable kDenseAvx2, kDenseAvx512;
#elif defined(__aarch64__)
extern const DenseTable kDenseNeon, kDenseNeonI8mm;
#endif

// Of an instruction set as `find_kernels` knows it. Throws std::invalid_argument naming the list.
const DenseTable& find_dense(const std::string& isa);

}  // namespace hobbit
