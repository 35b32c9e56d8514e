/* Kernels for x86-64 CPUs, one set for AVX-512 and one for AVX2 with FMA, chosen when the library is loaded.
 *
 * Built where a C compiler with OpenMP is found when rxrl is installed; everything also works without. Python calls it through ctypes, so
 * nothing of Python is needed to compile it. All numbers are float32. What a row gets depends neither on the rows beside it nor on the number of threads.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

int rxrl_version(void) { return VERSION; }

/* Clang does not know the pragmas that choose instructions. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(_OPENMP)
#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 16")

static inline long least(long a, long b) { return a < b ? a : b; }
static inline long padded(long count, long multiple) { return (count + multiple - 1) / multiple * multiple; }

/* Rows of one item of a product of a decoder's step, and its steps through a layer. */
#define BLOCK 8
#define PHASES 9

typedef void phase(const struct decoding *, const struct layer *, long item, float *scratch);

/* Rows of a block: pointers to them (beyond the last row, to that one), and how many. */
static inline int block_of(const float *x, long width, long rows, long block, const float **to)
{
    for (int r = 0; r < BLOCK; r++)
        to[r] = x + least(block * BLOCK + r, rows - 1) * width;
    return (int)least(BLOCK, rows - block * BLOCK);
}

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define KERNEL(name) name##_avx512
#define LANES 16
#define ROWS 8
#define CHAINS 2
typedef float vec_avx512 __attribute__((vector_size(64), may_alias));
typedef float loose_avx512 __attribute__((vector_size(64), aligned(4), may_alias));
static inline vec_avx512 rounded_avx512(vec_avx512 x) { return (vec_avx512)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec_avx512 times_power_avx512(vec_avx512 x, vec_avx512 n) { return (vec_avx512)_mm512_scalef_ps((__m512)x, (__m512)n); }
static inline vec_avx512 greater_avx512(vec_avx512 x, vec_avx512 y) { return (vec_avx512)_mm512_max_ps((__m512)x, (__m512)y); }
static inline float total_avx512(vec_avx512 x) { return _mm512_reduce_add_ps((__m512)x); }
static inline float greatest_avx512(vec_avx512 x) { return _mm512_reduce_max_ps((__m512)x); }
#include "vectors.h"
#include "attention.h"
#include "decoding.h"
#undef KERNEL
#undef LANES
#undef ROWS
#undef CHAINS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define KERNEL(name) name##_avx2
#define LANES 8
#define ROWS 4
#define CHAINS 1
typedef float vec_avx2 __attribute__((vector_size(32), may_alias));
typedef float loose_avx2 __attribute__((vector_size(32), aligned(4), may_alias));
static inline vec_avx2 rounded_avx2(vec_avx2 x) { return (vec_avx2)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vec_avx2 times_power_avx2(vec_avx2 x, vec_avx2 n)
{
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32((__m256)n), _mm256_set1_epi32(127)), 23);
    return x * (vec_avx2)_mm256_castsi256_ps(exponent);
}
static inline vec_avx2 greater_avx2(vec_avx2 x, vec_avx2 y) { return (vec_avx2)_mm256_max_ps((__m256)x, (__m256)y); }
static inline float total_avx2(vec_avx2 x)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
static inline float greatest_avx2(vec_avx2 x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
#include "vectors.h"
#include "attention.h"
#include "decoding.h"
#undef KERNEL
#undef LANES
#undef ROWS
#undef CHAINS
#pragma GCC pop_options

typedef void worker(const void *arguments, long item, float *scratch);

/* Each thread with scratch memory of its own; 0, or 1 where memory is missing. */
static int run(worker *work, const void *arguments, long items, size_t scratch, int threads)
{
    int missing = 0;
#pragma omp parallel num_threads(threads)
    {
        float *own = aligned_alloc(64, padded(scratch * sizeof(float), 64));
        if (!own) {
#pragma omp atomic write
            missing = 1;
        }
#pragma omp for schedule(static)
        for (long item = 0; item < items; item++)
            if (own)
                work(arguments, item, own);
        free(own);
    }
    return missing;
}

static int wide;

int rxrl_instruction_set(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return AVX512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? AVX2 : NONE;
}

void rxrl_use_instruction_set(int which) { wide = which == AVX512; }

/* Of both sets of instructions, so that scratch memory does for either. */
#define WIDEST_TILE 32
#define MOST_ROWS 8

int rxrl_attention(const struct attention *a, int threads)
{
    long width = padded(a->keys, WIDEST_TILE);
    return run((worker *)(wide ? attend_avx512 : attend_avx2), a, a->batch * a->heads, (2 * HEAD + MOST_ROWS) * width, threads);
}

int rxrl_attention_gradients(const struct attention *a, int threads)
{
    long width = padded(a->keys, WIDEST_TILE), floats = (5 * HEAD + 2 * MOST_ROWS) * width;
    return run((worker *)(wide ? differentiate_avx512 : differentiate_avx2), a, a->batch * a->kv_heads, floats, threads);
}

int rxrl_decode(const struct decoding *d, int threads)
{
    long tile = wide ? 32 : 16, blocks = padded(d->rows, BLOCK) / BLOCK, most = d->capacity > d->slots ? d->capacity : d->slots;
    long group = d->heads / d->kv_heads, cross_group = d->cross_heads / d->cross_kv_heads;
    long scores = (group > cross_group ? group : cross_group) * padded(most, KEY_TILE);
    long rows = BLOCK * (2 * d->hidden + d->dim + padded(d->experts, KEY_TILE));
    const long items[PHASES] = {
        blocks * (padded((d->heads + 2 * d->kv_heads) * HEAD, KEY_TILE) / tile),
        d->rows * d->kv_heads,
        blocks * (d->dim / tile),
        blocks * (padded(d->cross_heads * HEAD, KEY_TILE) / tile),
        d->rows * d->cross_kv_heads,
        blocks * (d->dim / tile),
        blocks,
        d->experts > 1 ? d->experts : blocks,
        d->rows,
    };
    phase *const *phases = wide ? phases_avx512 : phases_avx2;
    int missing = 0;
#pragma omp parallel num_threads(threads) reduction(| : missing)
    {
        float *scratch = aligned_alloc(64, padded((scores > rows ? scores : rows) * sizeof(float), 64));
        missing = !scratch;
        for (long layer = 0; layer < d->depth; layer++)
            for (int p = 0; p < PHASES; p++) {
#pragma omp for schedule(dynamic, 1)
                for (long item = 0; item < items[p]; item++)
                    if (scratch)
                        phases[p](d, d->layers + layer, item, scratch);
            }
        free(scratch);
    }
    return missing;
}

#else
int rxrl_instruction_set(void) { return NONE; }
#endif
