// A tile of weights with activations by the dot products of AVX-512 VNNI: bytes without sign with bytes with one, four
// at a time. Lane n of a register belongs to row n of the tile, so nothing is ever added up across lanes.
//
// What a block's dot product is in, and how it is scaled and added up, is as in ggml's own kernels; a result depends
// on its two rows only.
//
// Sources: block_q4_1, block_q8_0, block_q8_1 in src/ggml-common.h; ggml_vec_dot_q4_1_q8_1, ggml_vec_dot_q8_0_q8_0 and
// quantize_row_q8_1 in src/ggml-cpu/arch/x86/quants.c.

#include "product.h"

#include <immintrin.h>

#include <cstring>
#include <utility>

namespace takeoff {
namespace {

constexpr int MOST_INPUTS = 12;    // whose sums are kept in registers

// A block of each row of a tile.
struct Tile {
    __m512i bytes[QUADS];  // of each row, values 4 q to 4 q + 3, without sign
    __m512 scales, least;
};

__m128i load(const char * from) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)); }

// The processor foresees no walk through sixteen rows at once; a tile lies in one piece.
void prefetch(const char * from, int64_t size) {
    for (int64_t at = 0; at < size; at += 64) _mm_prefetch(from + at, _MM_HINT_T0);
}

// 16 bytes of each row, `stride` apart, as four registers of four bytes of each.
void transpose(const char * from, int64_t stride, __m512i * to) {
    __m512i rows[4];
    for (int r = 0; r < 4; ++r) {
        const char * first = from + r * stride;
        rows[r] = _mm512_castsi128_si512(load(first));
        rows[r] = _mm512_inserti32x4(rows[r], load(first + 4 * stride), 1);
        rows[r] = _mm512_inserti32x4(rows[r], load(first + 8 * stride), 2);
        rows[r] = _mm512_inserti32x4(rows[r], load(first + 12 * stride), 3);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]), high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]), high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
    to[0] = _mm512_unpacklo_epi64(low01, low23);
    to[1] = _mm512_unpackhi_epi64(low01, low23);
    to[2] = _mm512_unpacklo_epi64(high01, high23);
    to[3] = _mm512_unpackhi_epi64(high01, high23);
}

// Four bytes at the start of each row's block.
__m512i heads(const char * from, int64_t stride) {
    int32_t head[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; ++r) std::memcpy(head + r, from + r * stride, sizeof(int32_t));
    return _mm512_loadu_si512(head);
}

__m512 low_halves(__m512i heads) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads)); }

struct Q4_1 {  // d and m in 16 bits, then low and high nibbles: d * nibble + m
    static constexpr int64_t BYTES = 20;

    static void read(const char * from, int64_t stride, Tile & tile) {
        const __m512i head = heads(from, stride), nibble = _mm512_set1_epi8(0x0f);
        transpose(from + 4, stride, tile.bytes);
        for (int q = 0; q < 4; ++q) {
            tile.bytes[q + 4] = _mm512_and_si512(_mm512_srli_epi16(tile.bytes[q], 4), nibble);
            tile.bytes[q] = _mm512_and_si512(tile.bytes[q], nibble);
        }
        tile.scales = low_halves(head);
        tile.least = low_halves(_mm512_srli_epi32(head, 16));
    }

    static __m512i start(const Rounded &, int64_t) { return _mm512_setzero_si512(); }

    static __m512 add_least(__m512 sum, const Tile & tile, const Rounded & inputs, int64_t block) {
        return _mm512_fmadd_ps(tile.least, _mm512_set1_ps(inputs.sums[block]), sum);
    }
};

struct Q8_0 {  // d in 16 bits, then bytes with sign: 128 is added to each, and taken from the sum
    static constexpr int64_t BYTES = 34;

    static void read(const char * from, int64_t stride, Tile & tile) {
        transpose(from + 2, stride, tile.bytes);
        transpose(from + 18, stride, tile.bytes + 4);
        for (auto & bytes : tile.bytes) bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
        tile.scales = low_halves(heads(from, stride));
    }

    static __m512i start(const Rounded & inputs, int64_t block) { return _mm512_set1_epi32(inputs.shifts[block]); }

    static __m512 add_least(__m512 sum, const Tile &, const Rounded &, int64_t) { return sum; }
};

// One input with rows of Q8_0, each on its own: two blocks fill a register, and lanes are added up at the row's end.
// No tile is put together, so rows are read as fast as memory gives them; the sum's order is another.
class Row {
public:
    Row(const char * from, const Rounded & inputs) : from_(from), inputs_(inputs) {}

    // The next `count` blocks, 16 at most.
    void add(int count) {
        uint16_t halves[16] = {};
        for (int b = 0; b < count; ++b) std::memcpy(halves + b, from_ + (block_ + b) * Q8_0::BYTES, sizeof *halves);
        const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(halves));
        const __m512 of_inputs = _mm512_maskz_loadu_ps((1u << count) - 1, inputs_.scales + block_);
        const __m512 scales = _mm512_mul_ps(_mm512_cvtph_ps(packed), of_inputs);
#pragma GCC unroll 8
        for (int b = 0; b + 1 < count; b += 2) add(b, scales, wide(values(b), values(b + 1)), __mmask16(0xffff));
        if (count % 2 == 1) add(count - 1, scales, _mm512_zextsi256_si512(values(count - 1)), __mmask16(0x00ff));
        block_ += count;
    }

    float sum() const { return _mm512_reduce_add_ps(sums_); }

private:
    const char * from_;
    const Rounded & inputs_;
    int64_t block_ = 0;
    __m512 sums_ = _mm512_setzero_ps();

    __m256i values(int b) const {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from_ + (block_ + b) * Q8_0::BYTES + 2));
    }

    static __m512i wide(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }

    // Blocks b and b + 1 of the next, or those of `lanes`.
    void add(int b, __m512 scales, __m512i weights, __mmask16 lanes) {
        const int64_t block = block_ + b;
        const __m512i start = _mm512_maskz_loadu_epi32(lanes, inputs_.quad_shifts + block * QUADS);
        const __m512i inputs = _mm512_maskz_loadu_epi32(lanes, inputs_.values + block * BLOCK);
        const __m512i dot = _mm512_dpbusd_epi32(start, _mm512_xor_si512(weights, _mm512_set1_epi8(-128)), inputs);
        const __m512i of_lane = wide(_mm256_set1_epi32(b), _mm256_set1_epi32(b + 1));
        sums_ = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_permutexvar_ps(of_lane, scales), sums_);
    }
};

void multiply_single(const Product & call, const Rounded & inputs, int64_t number, char *) {
    const char * weights = call.tile(number);
    for (int r = 0; r < TILE_ROWS; ++r) {
        Row row(weights + r * call.weights->nb[1], inputs);
        int64_t left = call.num_blocks;
        for (; left >= 16; left -= 16) row.add(16);
        if (left > 0) row.add(static_cast<int>(left));
        call.output(number, 0)[r] = row.sum();
    }
}

enum class Source { FILE, FILE_KEPT, SCRATCH };  // where a tile is read; kept: in the scratch memory, for what follows

template <class Format, int NUM, Source SOURCE>
void multiply_some(const Product & call, const Rounded & inputs, int64_t number, int64_t first, Tile * scratch) {
    const char * weights = call.tile(number);
    __m512 sums[NUM];
    for (auto & sum : sums) sum = _mm512_setzero_ps();
    for (int64_t b = 0; b < call.num_blocks; ++b) {
        Tile tile;
        if constexpr (SOURCE == Source::SCRATCH) {
            tile = scratch[b];
        } else {
            prefetch(call.tile(number + 1) + b * TILE_ROWS * Format::BYTES, TILE_ROWS * Format::BYTES);
            Format::read(weights + b * Format::BYTES, call.weights->nb[1], tile);
        }
        if constexpr (SOURCE == Source::FILE_KEPT) scratch[b] = tile;
#pragma GCC unroll 16
        for (int i = 0; i < NUM; ++i) {
            const int64_t block = (first + i) * call.num_blocks + b;
            __m512i dot = Format::start(inputs, block);
#pragma GCC unroll 8
            for (int q = 0; q < QUADS; ++q) {
                int32_t quad;
                std::memcpy(&quad, inputs.values + block * BLOCK + 4 * q, sizeof quad);
                dot = _mm512_dpbusd_epi32(dot, tile.bytes[q], _mm512_set1_epi32(quad));
            }
            const __m512 scale = _mm512_mul_ps(tile.scales, _mm512_set1_ps(inputs.scales[block]));
            sums[i] = Format::add_least(_mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[i]), tile, inputs, block);
        }
    }
    for (int i = 0; i < NUM; ++i) _mm512_storeu_ps(call.output(number, first + i), sums[i]);
}

using Some = void (*)(const Product &, const Rounded &, int64_t, int64_t, Tile *);

template <class Format, Source SOURCE, class Counts> struct Table;
template <class Format, Source SOURCE, int... NUMS> struct Table<Format, SOURCE, std::integer_sequence<int, NUMS...>> {
    static constexpr Some some[] = {multiply_some<Format, NUMS + 1, SOURCE>...};  // by the number of inputs, less one
};

template <class Format> void multiply_all(const Product & call, const Rounded & inputs, int64_t number, Tile * scratch) {
    using Counts = std::make_integer_sequence<int, MOST_INPUTS>;
    int64_t first = 0;
    if (call.num_inputs > MOST_INPUTS) {
        multiply_some<Format, MOST_INPUTS, Source::FILE_KEPT>(call, inputs, number, first, scratch);
        first += MOST_INPUTS;
        for (; call.num_inputs - first > MOST_INPUTS; first += MOST_INPUTS)
            multiply_some<Format, MOST_INPUTS, Source::SCRATCH>(call, inputs, number, first, scratch);
    }
    const auto & table = first == 0 ? Table<Format, Source::FILE, Counts>::some : Table<Format, Source::SCRATCH, Counts>::some;
    table[call.num_inputs - first - 1](call, inputs, number, first, scratch);
}

void multiply(const Product & call, const Rounded & inputs, int64_t number, char * scratch) {
    Tile * tiles = reinterpret_cast<Tile *>(scratch);
    if (call.weights->type == GGML_TYPE_Q4_1) multiply_all<Q4_1>(call, inputs, number, tiles);
    else multiply_all<Q8_0>(call, inputs, number, tiles);
}

float through_half(float value) { return _cvtsh_ss(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }

void round(const Product & call, const Rounded & to, int64_t input) {
    const float * from = call.input(input);
    for (int64_t b = 0; b < call.num_blocks; ++b, from += BLOCK) {
        const int64_t block = input * call.num_blocks + b;
        const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
        const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const float scale = most / 127.0f;
        const __m512 inverse = _mm512_set1_ps(most != 0.0f ? 127.0f / most : 0.0f);
        const __m512i low_values = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        const __m512i high_values = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        int8_t * values = to.values + block * BLOCK;
        _mm_storeu_si128(reinterpret_cast<__m128i *>(values), _mm512_cvtepi32_epi8(low_values));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(values + 16), _mm512_cvtepi32_epi8(high_values));
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low_values, high_values));
        to.scales[block] = through_half(scale);
        to.sums[block] = through_half(scale * sum);
        to.shifts[block] = -128 * sum;
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(values));
        const __m256i of_quads = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(-128), bytes);
        const __m256i shifts = _mm256_sub_epi32(_mm256_setzero_si256(), of_quads);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to.quad_shifts + block * QUADS), shifts);
    }
}

}  // namespace

Multiplier avx512_vnni_multiplier() { return {round, multiply, multiply_single}; }

}  // namespace takeoff
