// Products of quantised weights and activations: one call of it, and what computes some rows of weights.

#pragma once

#include "ggml.h"

#include <cstdint>

namespace takeoff {

constexpr int64_t BLOCK = 32;        // values that share a scale, of weights and of activations
constexpr int QUADS = BLOCK / 4;      // of four values, in a block
constexpr int64_t TILE_ROWS = 16;    // rows of weights that are taken together

// A node MUL_MAT: each of `num_inputs` rows of activations with each of `num_rows` rows of weights.
//
// Source: ggml_mul_mat in include/ggml.h.
struct Product {
    const ggml_tensor *weights, *inputs;
    int64_t num_rows, num_inputs, num_blocks;  // blocks: of a row
    ggml_tensor * result;

    explicit Product(ggml_tensor * node);

    const char * tile(int64_t number) const;  // its first row of weights
    const float * input(int64_t number) const;
    float * output(int64_t tile, int64_t input) const;
};

// Activations as ggml rounds them for these types: to 8 bits, each block with a scale in 16 bits.
struct Rounded {
    int8_t * values;   // [inputs, blocks, BLOCK]
    float * scales;    // [inputs, blocks]
    float * sums;      // [inputs, blocks], of the values times the scale, in 16 bits
    int32_t * shifts;  // [inputs, blocks], -128 times the sum of the values
    int32_t * quad_shifts;  // [inputs, blocks, QUADS], the same of four values each

    static int64_t size(const Product &);  // bytes
    Rounded(const Product &, char * memory);
};

// What computes a tile: all inputs with TILE_ROWS rows of weights.
struct Multiplier {
    void (*round)(const Product &, const Rounded &, int64_t input);
    void (*multiply)(const Product &, const Rounded &, int64_t tile, char * scratch);
    void (*multiply_single)(const Product &, const Rounded &, int64_t tile, char * scratch);  // one input; Q8_0 only
};

// Whether there is code for weights of this type.
bool is_known(ggml_type weights);

// The best for this processor; its functions are null where there is none.
Multiplier find_multiplier();

Multiplier avx512_vnni_multiplier();

// Bytes that `compute` needs beside the call's own tensors.
int64_t workspace_size(const Product &, int n_threads);

// `is_rounded`: the workspace holds this call's inputs, rounded by a call before. `rows_alike`: an input gives the same
// bits alone as beside others; without it one that is alone is faster.
void compute(const Product &, const Multiplier &, int n_threads, char * workspace, bool is_rounded, bool rows_alike);

}  // namespace takeoff
