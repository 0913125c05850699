// The kernel of attention, compiled once for AVX-512 and once for AVX2 (KERNEL names the function that hands it out).
//
// Nothing of the standard library's templates is used here: the linker would merge both compilations of them.

#include "attention.h"

#include <immintrin.h>

namespace takeoff {
namespace {

constexpr float NOTHING = -__builtin_inff();

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

#if defined(__AVX512F__)

using Vector = __m512;
constexpr int WIDTH = 16, VECTORS = 4, ROWS = 6;  // VECTORS of ROWS rows fit into the registers

inline Vector all(float x) { return _mm512_set1_ps(x); }
inline Vector load(const float * from) { return _mm512_loadu_ps(from); }
inline void store(float * to, Vector x) { _mm512_storeu_ps(to, x); }
inline Vector widen(const ggml_fp16_t * from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector nearest(Vector x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vector times_power(Vector x, Vector exponent) { return _mm512_scalef_ps(x, exponent); }
inline float sum(Vector x) { return _mm512_reduce_add_ps(x); }
inline float largest(Vector x) { return _mm512_reduce_max_ps(x); }

// The sum of each of WIDTH vectors that lie one after the other.
inline Vector sums(const float * from) {
    Vector twos[8], fours[4], eights[2];
    for (int i = 0; i < 8; ++i) {
        const Vector a = load(from + 2 * i * WIDTH), b = load(from + (2 * i + 1) * WIDTH);
        twos[i] = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512d a = _mm512_castps_pd(twos[2 * i]), b = _mm512_castps_pd(twos[2 * i + 1]);
        fours[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    const auto fold = [](Vector a, Vector b) {  // of four lanes of a and four of b, neighbours added
        return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    for (int i = 0; i < 2; ++i) eights[i] = fold(fours[2 * i], fours[2 * i + 1]);
    return fold(eights[0], eights[1]);
}

#else  // AVX2, FMA, F16C

using Vector = __m256;
constexpr int WIDTH = 8, VECTORS = 2, ROWS = 4;

inline Vector all(float x) { return _mm256_set1_ps(x); }
inline Vector load(const float * from) { return _mm256_loadu_ps(from); }
inline void store(float * to, Vector x) { _mm256_storeu_ps(to, x); }
inline Vector widen(const ggml_fp16_t * from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector nearest(Vector x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vector times_power(Vector x, Vector exponent) {  // 0 where the result is no normal float
    const __m256i added = _mm256_slli_epi32(_mm256_cvtps_epi32(exponent), 23);
    const Vector power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), added));
    return _mm256_andnot_ps(_mm256_cmp_ps(exponent, all(-125.0f), _CMP_LT_OQ), power);
}
inline float sum(Vector x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline float largest(Vector x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

inline Vector sums(const float * from) {
    Vector twos[4], fours[2];
    for (int i = 0; i < 4; ++i) twos[i] = _mm256_hadd_ps(load(from + 2 * i * WIDTH), load(from + (2 * i + 1) * WIDTH));
    for (int i = 0; i < 2; ++i) fours[i] = _mm256_hadd_ps(twos[2 * i], twos[2 * i + 1]);
    return add(_mm256_permute2f128_ps(fours[0], fours[1], 0x20), _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}

#endif

constexpr int TILE = 64;  // keys whose weights are in the first-level cache at once
static_assert(ROWS <= MOST_ROWS && WIDEST % WIDTH == 0 && CHUNK % TILE == 0 && TILE % WIDTH == 0);

// e^x for x <= 0, wrong by some 1e-7 of it: the whole part of x in powers of two goes into the exponent, the rest
// into the series of e^(rest ln 2).
inline Vector exponential(Vector x) {
    x = larger(multiply(x, all(1.44269504f)), all(-200.0f));
    const Vector whole = nearest(x), rest = subtract(x, whole);
    Vector power = all(1.5403530e-4f);
    power = multiply_add(power, rest, all(1.3333558e-3f));
    power = multiply_add(power, rest, all(9.6181291e-3f));
    power = multiply_add(power, rest, all(5.5504109e-2f));
    power = multiply_add(power, rest, all(2.4022651e-1f));
    power = multiply_add(power, rest, all(6.9314718e-1f));
    power = multiply_add(power, rest, all(1.0f));
    return times_power(power, whole);
}

// Products of NUM vectors of each query with those of `num` keys, added up over the NUM: [row][key][WIDTH].
template <int NUM_ROWS, int NUM>
inline void multiply_keys(const float * queries, int64_t query_size, const char * keys, size_t stride, int64_t num,
                          float * products, bool is_first) {
    for (int64_t t = 0; t < num; ++t) {
        const auto * key = reinterpret_cast<const ggml_fp16_t *>(keys + t * stride);
        Vector k[NUM];
        for (int i = 0; i < NUM; ++i) k[i] = widen(key + i * WIDTH);
        for (int r = 0; r < NUM_ROWS; ++r) {
            const float * query = queries + r * query_size;
            float * at = products + (r * WIDTH + t) * WIDTH;
            Vector x = is_first ? multiply(load(query), k[0]) : multiply_add(load(query), k[0], load(at));
            for (int i = 1; i < NUM; ++i) x = multiply_add(load(query + i * WIDTH), k[i], x);
            store(at, x);
        }
    }
}

// Add `num` values, times their weights, to the first NUM vectors of each part.
template <int NUM_ROWS, int NUM>
inline void add_values(const float * weights, const char * values, size_t stride, int64_t num, float * parts,
                       int64_t part_size) {
    Vector x[NUM_ROWS][NUM];
    for (int r = 0; r < NUM_ROWS; ++r)
        for (int i = 0; i < NUM; ++i) x[r][i] = load(parts + r * part_size + i * WIDTH);
    for (int64_t t = 0; t < num; ++t) {
        const auto * value = reinterpret_cast<const ggml_fp16_t *>(values + t * stride);
        Vector v[NUM];
        for (int i = 0; i < NUM; ++i) v[i] = widen(value + i * WIDTH);
        for (int r = 0; r < NUM_ROWS; ++r) {
            const Vector weight = all(weights[r * TILE + t]);
            for (int i = 0; i < NUM; ++i) x[r][i] = multiply_add(weight, v[i], x[r][i]);
        }
    }
    for (int r = 0; r < NUM_ROWS; ++r)
        for (int i = 0; i < NUM; ++i) store(parts + r * part_size + i * WIDTH, x[r][i]);
}

// How many of `num` keys there are up to the last one that one of the rows sees.
template <int NUM_ROWS>
inline int64_t num_seen(const ggml_fp16_t * const * hidden, int64_t start, int64_t num) {
    if (hidden[0] == nullptr) return num;
    int64_t seen = 0;
    for (int r = 0; r < NUM_ROWS; ++r) {
        int64_t last = num;
        while (last > seen && hidden[r][start + last - 1] == HIDDEN) --last;
        seen = last;
    }
    return seen;
}

inline float mask_value(ggml_fp16_t half) { return _cvtsh_ss(half); }

// Scores of `num` keys with each row, [row][TILE]; what is left of a last vector is minus infinity.
template <int NUM_ROWS>
inline void score(const Attention & call, const Block & block, const float * queries, const ggml_fp16_t * const * hidden,
                  int64_t start, int64_t num, float * scores) {
    alignas(64) float products[NUM_ROWS * WIDTH * WIDTH];
    const int64_t size = call.key_size;
    const size_t stride = call.keys->nb[1];
    for (int64_t t = 0; t < num; t += WIDTH) {
        const int64_t here = smaller(WIDTH, num - t);
        const char * keys = call.key(start + t, block.kv_head, block.sequence);
        int64_t done = 0;
        for (; done + VECTORS * WIDTH <= size; done += VECTORS * WIDTH)
            multiply_keys<NUM_ROWS, VECTORS>(queries + done, size, keys + 2 * done, stride, here, products, done == 0);
        for (; done < size; done += WIDTH)
            multiply_keys<NUM_ROWS, 1>(queries + done, size, keys + 2 * done, stride, here, products, done == 0);
        for (int r = 0; r < NUM_ROWS; ++r) {
            float * at = scores + r * TILE + t;
            for (int64_t i = here; i < WIDTH; ++i) store(products + (r * WIDTH + i) * WIDTH, all(0.0f));
            store(at, sums(products + r * WIDTH * WIDTH));
            for (int64_t i = here; i < WIDTH; ++i) at[i] = NOTHING;
            if (hidden[r] == nullptr) continue;
            if (here == WIDTH) {
                store(at, add(load(at), widen(hidden[r] + start + t)));
            } else {
                for (int64_t i = 0; i < here; ++i) at[i] += mask_value(hidden[r][start + t + i]);
            }
        }
    }
}

// Turn a row's scores of `num` keys into weights, and make its part relative to the largest score so far.
inline void weigh(float * scores, int64_t num, float * part, int64_t value_size) {
    float &total = part[value_size], &most = part[value_size + 1];
    Vector large = all(NOTHING);
    for (int64_t t = 0; t < num; t += WIDTH) large = larger(large, load(scores + t));
    const float now = largest(large) > most ? largest(large) : most;
    if (now == NOTHING) {  // the row sees nothing yet
        for (int64_t t = 0; t < num; t += WIDTH) store(scores + t, all(0.0f));
        return;
    }
    if (now > most) {
        const float shrink = __builtin_expf(most - now);
        for (int64_t i = 0; i < value_size; i += WIDTH) store(part + i, multiply(load(part + i), all(shrink)));
        total *= shrink;
        most = now;
    }
    Vector added = all(0.0f);
    for (int64_t t = 0; t < num; t += WIDTH) {
        const Vector weight = exponential(subtract(load(scores + t), all(now)));
        store(scores + t, weight);
        added = add(added, weight);
    }
    total += sum(added);
}

template <int NUM_ROWS>
void attend_rows(const Attention & call, const Block & block, float * parts, float * scratch) {
    const int64_t value_size = call.value_size, part_size = call.part_size();
    alignas(64) float weights[NUM_ROWS * TILE];
    const ggml_fp16_t * hidden[NUM_ROWS];
    for (int r = 0; r < NUM_ROWS; ++r) {
        const float * query = call.query(block.row + r, block.kv_head, block.sequence);
        for (int64_t i = 0; i < call.key_size; ++i) scratch[r * call.key_size + i] = query[i] * call.scale;
        hidden[r] = call.hidden(block.row + r, block.sequence);
        for (int64_t i = 0; i <= value_size; ++i) parts[r * part_size + i] = 0.0f;
        parts[r * part_size + value_size + 1] = NOTHING;
    }
    const size_t stride = call.values->nb[1];
    for (int64_t start = block.begin; start < block.end; start += TILE) {
        const int64_t num = num_seen<NUM_ROWS>(hidden, start, smaller(TILE, block.end - start));
        if (num == 0) continue;
        score<NUM_ROWS>(call, block, scratch, hidden, start, num, weights);
        for (int r = 0; r < NUM_ROWS; ++r) weigh(weights + r * TILE, num, parts + r * part_size, value_size);
        const char * values = call.value(start, block.kv_head, block.sequence);
        int64_t done = 0;
        for (; done + VECTORS * WIDTH <= value_size; done += VECTORS * WIDTH)
            add_values<NUM_ROWS, VECTORS>(weights, values + 2 * done, stride, num, parts + done, part_size);
        for (; done < value_size; done += WIDTH)
            add_values<NUM_ROWS, 1>(weights, values + 2 * done, stride, num, parts + done, part_size);
    }
}

void attend(const Attention & call, const Block & block, float * parts, float * scratch) {
    switch (block.num_rows) {
        case 1: return attend_rows<1>(call, block, parts, scratch);
        case 2: return attend_rows<2>(call, block, parts, scratch);
        case 3: return attend_rows<3>(call, block, parts, scratch);
        case 4: return attend_rows<4>(call, block, parts, scratch);
#if defined(__AVX512F__)
        case 5: return attend_rows<5>(call, block, parts, scratch);
        case 6: return attend_rows<6>(call, block, parts, scratch);
#endif
    }
}

}  // namespace

Kernel KERNEL() { return {ROWS, attend}; }

}  // namespace takeoff
