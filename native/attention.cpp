#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <omp.h>

namespace takeoff {
namespace {

// How a call is cut. A row's result does not depend on it: parts of CHUNK keys are always added up in their order.
struct Cut {
    int64_t rows, row_blocks, chunks, blocks;  // rows: of a block, at most; blocks: of rows, in the whole call
    bool is_by_chunk;                          // blocks are too few for the threads: each chunk is work of its own

    Cut(const Attention & call, const Kernel & kernel, int n_threads) {
        row_blocks = (call.rows() + kernel.max_rows - 1) / kernel.max_rows;
        rows = (call.rows() + row_blocks - 1) / row_blocks;
        chunks = (call.num_keys + CHUNK - 1) / CHUNK;
        blocks = call.sequences * call.kv_heads * row_blocks;
        is_by_chunk = chunks > 1 && n_threads > 1 && blocks < 4 * n_threads;
    }

    Block block(const Attention & call, int64_t number, int64_t chunk) const {
        const int64_t row = number % row_blocks * rows, begin = chunk * CHUNK;
        return {number / row_blocks / call.kv_heads, number / row_blocks % call.kv_heads,
                row,   std::max<int64_t>(std::min(rows, call.rows() - row), 0),
                begin, std::min(begin + CHUNK, call.num_keys)};
    }

    int64_t kept(const Attention & call) const {  // floats of parts that wait to be added up
        return is_by_chunk ? blocks * chunks * rows * call.part_size() : 0;
    }

    int64_t of_thread(const Attention & call) const {
        return MOST_ROWS * call.key_size + 2 * rows * call.part_size();
    }
};

// Add the part of the chunk after those that `sum` is of.
void add_part(float * sum, const float * next, int64_t value_size) {
    float &total = sum[value_size], &most = sum[value_size + 1];
    if (std::isinf(next[value_size + 1])) return;
    const float now = std::max(most, next[value_size + 1]);
    const float before = std::exp(most - now), after = std::exp(next[value_size + 1] - now);
    for (int64_t i = 0; i < value_size; ++i) sum[i] = sum[i] * before + next[i] * after;
    total = total * before + next[value_size] * after;
    most = now;
}

void write_result(const float * part, float * to, int64_t value_size) {
    const float share = part[value_size] == 0.0f ? 0.0f : 1.0f / part[value_size];
    for (int64_t i = 0; i < value_size; ++i) to[i] = part[i] * share;
}

// Add up the parts of a block's chunks, `stride` floats apart, and write the rows.
void finish(const Attention & call, const Block & block, float * parts, int64_t stride, int64_t chunks) {
    for (int64_t r = 0; r < block.num_rows; ++r) {
        float * sum = parts + r * call.part_size();
        for (int64_t chunk = 1; chunk < chunks; ++chunk) add_part(sum, sum + chunk * stride, call.value_size);
        write_result(sum, call.output(block.row + r, block.kv_head, block.sequence), call.value_size);
    }
}

// All chunks of a block, one after the other.
void attend_all(const Attention & call, const Kernel & kernel, const Cut & cut, int64_t number, float * own) {
    float *scratch = own, *sum = own + MOST_ROWS * call.key_size, *next = sum + cut.rows * call.part_size();
    const Block first = cut.block(call, number, 0);
    kernel.attend(call, first, sum, scratch);
    for (int64_t chunk = 1; chunk < cut.chunks; ++chunk) {
        kernel.attend(call, cut.block(call, number, chunk), next, scratch);
        for (int64_t r = 0; r < first.num_rows; ++r)
            add_part(sum + r * call.part_size(), next + r * call.part_size(), call.value_size);
    }
    finish(call, first, sum, 0, 1);
}

}  // namespace

Attention::Attention(ggml_tensor * node)
    : queries(node->src[0]), keys(node->src[1]), values(node->src[2]), mask(node->src[3]), sequences(queries->ne[3]),
      kv_heads(keys->ne[2]), group(queries->ne[2] / keys->ne[2]), places(queries->ne[1]), num_keys(keys->ne[1]),
      key_size(keys->ne[0]), value_size(values->ne[0]), result(node) {
    std::memcpy(&scale, node->op_params, sizeof scale);
}

const float * Attention::query(int64_t row, int64_t kv_head, int64_t sequence) const {
    const auto & nb = queries->nb;
    const int64_t head = kv_head * group + row % group;
    return reinterpret_cast<const float *>(static_cast<const char *>(queries->data) + row / group * nb[1] + head * nb[2] +
                                           sequence * nb[3]);
}

const ggml_fp16_t * Attention::hidden(int64_t row, int64_t sequence) const {
    if (mask == nullptr) return nullptr;
    const char * at = static_cast<const char *>(mask->data) + row / group * mask->nb[1] + sequence % mask->ne[3] * mask->nb[3];
    return reinterpret_cast<const ggml_fp16_t *>(at);
}

const char * Attention::key(int64_t at, int64_t kv_head, int64_t sequence) const {
    return static_cast<const char *>(keys->data) + at * keys->nb[1] + kv_head * keys->nb[2] + sequence * keys->nb[3];
}

const char * Attention::value(int64_t at, int64_t kv_head, int64_t sequence) const {
    return static_cast<const char *>(values->data) + at * values->nb[1] + kv_head * values->nb[2] + sequence * values->nb[3];
}

float * Attention::output(int64_t row, int64_t kv_head, int64_t sequence) const {
    const int64_t head = kv_head * group + row % group;
    return static_cast<float *>(result->data) + ((sequence * places + row / group) * kv_heads * group + head) * value_size;
}

Kernel find_kernel(const char * name) {
    const auto is_wanted = [name](const char * level) { return name == nullptr || std::strcmp(name, level) == 0; };
    __builtin_cpu_init();
    if (is_wanted("avx512") && __builtin_cpu_supports("avx512f")) return avx512_kernel();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (is_wanted("avx2") && has_avx2) return avx2_kernel();
    return {0, nullptr};
}

int64_t workspace_size(const Attention & call, const Kernel & kernel, int n_threads) {
    const Cut cut(call, kernel, n_threads);
    return cut.kept(call) + n_threads * cut.of_thread(call);
}

void compute(const Attention & call, const Kernel & kernel, int n_threads, float * workspace) {
    const Cut cut(call, kernel, n_threads);
    const int64_t chunks = cut.is_by_chunk ? cut.chunks : 1, of_chunk = cut.rows * call.part_size();
    float * kept = workspace + n_threads * cut.of_thread(call);
#pragma omp parallel num_threads(n_threads)
    {
        float * own = workspace + omp_get_thread_num() * cut.of_thread(call);
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < cut.blocks * chunks; ++number) {
            if (cut.is_by_chunk) {
                const Block block = cut.block(call, number / chunks, number % chunks);
                kernel.attend(call, block, kept + number * of_chunk, own);
            } else {
                attend_all(call, kernel, cut, number, own);
            }
        }
        if (cut.is_by_chunk) {
#pragma omp for
            for (int64_t number = 0; number < cut.blocks; ++number)
                finish(call, cut.block(call, number, 0), kept + number * chunks * of_chunk, of_chunk, chunks);
        }
    }
}

}  // namespace takeoff
