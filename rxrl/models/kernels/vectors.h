/* What kernels of one instruction set share. Included once for each, with KERNEL(name), LANES (floats of a vector) and ROWS (rows that are
 * computed together, as many as registers hold). */
#define vec KERNEL(vec)
#define loose KERNEL(loose)
#define rounded KERNEL(rounded)
#define times_power KERNEL(times_power)
#define greater KERNEL(greater)
#define total KERNEL(total)
#define greatest KERNEL(greatest)
#define power KERNEL(power)

#define load(from) ((vec)*(const loose *)(from))
#define store(to, what) (*(loose *)(to) = (loose)(what))

/* 2^x for x up to about 0, with a relative error below 3e-7; what is below 2^-126 counts as that. Not a number stays that. */
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
