#include "product.h"

#include <algorithm>

#include <omp.h>

namespace takeoff {
namespace {

constexpr int64_t LINE = 64;  // bytes; what threads write lies in lines of their own
constexpr int64_t SCRATCH_OF_BLOCK = 640;  // bytes: a block of each row of a tile as bytes, and its floats
constexpr int64_t PARTS = 3;  // of a thread's work, so that one that was held up is helped; more of them cut the prefetch

int64_t aligned(int64_t size) { return (size + LINE - 1) / LINE * LINE; }

int64_t scratch_size(const Product & call) { return call.num_blocks * SCRATCH_OF_BLOCK; }

}  // namespace

Product::Product(ggml_tensor * node)
    : weights(node->src[0]), inputs(node->src[1]), num_rows(weights->ne[1]), num_inputs(inputs->ne[1]),
      num_blocks(weights->ne[0] / BLOCK), result(node) {}

const char * Product::tile(int64_t number) const {
    return static_cast<const char *>(weights->data) + number * TILE_ROWS * weights->nb[1];
}

const float * Product::input(int64_t number) const {
    return reinterpret_cast<const float *>(static_cast<const char *>(inputs->data) + number * inputs->nb[1]);
}

float * Product::output(int64_t tile, int64_t input) const {
    char * row = static_cast<char *>(result->data) + input * result->nb[1];
    return reinterpret_cast<float *>(row) + tile * TILE_ROWS;
}

int64_t Rounded::size(const Product & call) {
    const int64_t blocks = call.num_inputs * call.num_blocks;
    return aligned(blocks * (BLOCK + 2 * sizeof(float) + (1 + QUADS) * sizeof(int32_t)));
}

Rounded::Rounded(const Product & call, char * memory) {
    const int64_t blocks = call.num_inputs * call.num_blocks;
    values = reinterpret_cast<int8_t *>(memory);
    scales = reinterpret_cast<float *>(memory + blocks * BLOCK);
    sums = scales + blocks;
    shifts = reinterpret_cast<int32_t *>(sums + blocks);
    quad_shifts = shifts + blocks;
}

bool is_known(ggml_type weights) { return weights == GGML_TYPE_Q4_1 || weights == GGML_TYPE_Q8_0; }

Multiplier find_multiplier() {
    __builtin_cpu_init();
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    return has_avx512 ? avx512_vnni_multiplier() : Multiplier{nullptr, nullptr, nullptr};
}

int64_t workspace_size(const Product & call, int n_threads) {
    return LINE + Rounded::size(call) + n_threads * scratch_size(call);
}

void compute(
    const Product & call, const Multiplier & multiplier, int n_threads, char * workspace, bool is_rounded, bool rows_alike
) {
    char * memory = workspace + (LINE - reinterpret_cast<uintptr_t>(workspace) % LINE) % LINE;
    const Rounded rounded(call, memory);
    const bool is_single = call.num_inputs == 1 && call.weights->type == GGML_TYPE_Q8_0 && !rows_alike;
    const auto multiply = is_single ? multiplier.multiply_single : multiplier.multiply;
    const int64_t tiles = call.num_rows / TILE_ROWS, part = std::max<int64_t>(tiles / (PARTS * n_threads), 1);
#pragma omp parallel num_threads(n_threads)
    {
        if (!is_rounded) {
#pragma omp for
            for (int64_t input = 0; input < call.num_inputs; ++input) multiplier.round(call, rounded, input);
        }
        char * scratch = memory + Rounded::size(call) + omp_get_thread_num() * scratch_size(call);
#pragma omp for schedule(dynamic, part) nowait
        for (int64_t tile = 0; tile < tiles; ++tile) multiply(call, rounded, tile, scratch);
    }
}

}  // namespace takeoff
