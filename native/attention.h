// Attention over a cache of 16-bit floats: one call of it, and what computes some rows of a call.

#pragma once

#include "ggml.h"

#include <cstdint>

namespace takeoff {

constexpr int64_t CHUNK = 256;     // keys whose part of a result is computed by itself, wherever they stand
constexpr int64_t WIDEST = 16;     // sizes of keys and values are multiples of this many floats
constexpr int64_t MOST_ROWS = 6;   // that any kernel takes at once
constexpr ggml_fp16_t HIDDEN = 0xfc00;  // in a mask: minus infinity

// A node FLASH_ATTN_EXT. Its rows are, for each sequence and each head of keys ("kv head"), the queries of all the
// heads that share it: those of one place one after the other. Strides are in bytes.
//
// Source: ggml_flash_attn_ext in include/ggml.h.
struct Attention {
    const ggml_tensor *queries, *keys, *values, *mask;
    int64_t sequences, kv_heads, group, places;  // group: heads that share a kv head; places: tokens of a sequence
    int64_t num_keys, key_size, value_size;      // sizes in floats
    float scale;
    ggml_tensor * result;

    explicit Attention(ggml_tensor * node);

    int64_t rows() const { return group * places; }
    int64_t part_size() const { return value_size + 2; }

    const float * query(int64_t row, int64_t kv_head, int64_t sequence) const;
    const ggml_fp16_t * hidden(int64_t row, int64_t sequence) const;  // a mask of num_keys, or null
    const char * key(int64_t at, int64_t kv_head, int64_t sequence) const;
    const char * value(int64_t at, int64_t kv_head, int64_t sequence) const;
    float * output(int64_t row, int64_t kv_head, int64_t sequence) const;
};

// Where rows meet keys: rows [row, row + num_rows) and keys [begin, end) of one sequence and one kv head.
struct Block {
    int64_t sequence, kv_head, row, num_rows, begin, end;
};

// What computes a block. Of each row it writes a part, `part_size` floats: the sum of weighted values, the sum of the
// weights, and the score that weights are relative to (minus infinity if the row sees none of the keys).
struct Kernel {
    int64_t max_rows;
    // `scratch`: floats of the calling thread alone, MOST_ROWS * key_size of them.
    void (*attend)(const Attention &, const Block &, float * parts, float * scratch);
};

// The kernel of that name ("avx512", "avx2"), or the best for this processor; its `attend` is null where there is none.
Kernel find_kernel(const char * name = nullptr);

Kernel avx512_kernel();
Kernel avx2_kernel();

// Floats that `compute` needs beside the call's own tensors.
int64_t workspace_size(const Attention &, const Kernel &, int n_threads);

void compute(const Attention &, const Kernel &, int n_threads, float * workspace);

}  // namespace takeoff
