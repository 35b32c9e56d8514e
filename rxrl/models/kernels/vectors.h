/* What kernels of one instruction set share. Included once for each, with KERNEL(name), LANES (floats of a vector), ROWS (rows
 * whose sums the registers hold, of two vectors each) and CHAINS. */
#define vec KERNEL(vec)
#define loose KERNEL(loose)
#define rounded KERNEL(rounded)
#define times_power KERNEL(times_power)
#define greater KERNEL(greater)
#define total KERNEL(total)
#define greatest KERNEL(greatest)
#define power KERNEL(power)
#define ints KERNEL(ints)
#define largest KERNEL(largest)
#define swiglu KERNEL(swiglu)
#define columns KERNEL(columns)
#define columns_of KERNEL(columns_of)

typedef int ints __attribute__((vector_size(4 * LANES)));

/* Columns that are computed together: those of two vectors. */
#define TILE (2 * LANES)

#define load(from) ((vec)*(const loose *)(from))
#define store(to, what) (*(loose *)(to) = (loose)(what))

/* 2^x for x up to about 0, with a relative error below 1e-7; what is below 2^-126 counts as that. Not a number stays that. */
static inline vec power(vec x)
{
    x = greater((vec){} - 126.0f, x);
    vec whole = rounded(x), rest = x - whole;
    vec value = rest * 1.535336188319500e-4f + 1.339887440266574e-3f;
    value = value * rest + 9.618437357674640e-3f;
    value = value * rest + 5.550332471162809e-2f;
    value = value * rest + 2.402264791363012e-1f;
    value = value * rest + 6.931472028550421e-1f;
    value = value * rest + 1.0f;
    return times_power(value, whole);
}

/* The largest of `count` numbers, a multiple of TILE; not always not a number where one of them is. */
static inline float largest(const float *x, long count)
{
    vec first = load(x), second = load(x + LANES);
    for (long j = TILE; j < count; j += TILE) {
        first = greater(first, load(x + j));
        second = greater(second, load(x + j + LANES));
    }
    return greatest(greater(first, second));
}

/* value * gate / (1 + exp(-gate)) */
static inline vec swiglu(vec value, vec gate)
{
    vec size = (vec)((ints)gate & 0x7fffffff), small = power(size * -LOG2_E), one = (vec){} + 1.0f;
    ints positive = gate >= 0.0f;
    vec numerator = (vec)(((ints)one & positive) | ((ints)small & ~positive));
    return value * gate * (numerator / (one + small));
}

/* to[row * to_width + column] = scale * sum over d < depth of rows[row][d] * weights[d * stride + column], for TILE columns and up to ROWS rows.
 * Each sum goes from the first d to the last, so that a row gets the same whatever stands beside it. */
static inline __attribute__((always_inline)) void columns_of(
    const int count, const float *const *rows, long depth, const float *weights, long stride, float scale, float *to, long to_width)
{
    vec sums[ROWS][2];
    UNROLL for (int r = 0; r < count; r++) sums[r][0] = sums[r][1] = (vec){};
    for (long d = 0; d < depth; d++) {
        vec first = load(weights + d * stride), second = load(weights + d * stride + LANES);
        UNROLL for (int r = 0; r < count; r++) {
            float number = rows[r][d];
            sums[r][0] += number * first;
            sums[r][1] += number * second;
        }
    }
    UNROLL for (int r = 0; r < count; r++) {
        store(to + r * to_width, sums[r][0] * scale);
        store(to + r * to_width + LANES, sums[r][1] * scale);
    }
}

/* The same, not scaled, for any number of rows. */
static void columns(int count, const float *const *rows, long depth, const float *weights, long stride, float *to, long to_width)
{
    for (; count >= ROWS; count -= ROWS, rows += ROWS, to += ROWS * to_width)
        columns_of(ROWS, rows, depth, weights, stride, 1.0f, to, to_width);
    for (; count >= 4; count -= 4, rows += 4, to += 4 * to_width)
        columns_of(4, rows, depth, weights, stride, 1.0f, to, to_width);
    for (; count >= 2; count -= 2, rows += 2, to += 2 * to_width)
        columns_of(2, rows, depth, weights, stride, 1.0f, to, to_width);
    if (count)
        columns_of(1, rows, depth, weights, stride, 1.0f, to, to_width);
}
