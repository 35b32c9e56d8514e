/* What Python hands over: the same fields in the same order as in kernels/attention.py. Strides count floats. */

enum { NONE = 0, AVX2 = 1, AVX512 = 2 };

/* Size of a head: that of every preset. */
#define HEAD 16
#define LOG2_E 1.4426950408889634f

struct attention {
    const float *q, *k, *v;              /* [batch, heads or kv_heads, times or keys, HEAD], strides below */
    const unsigned char *readable;       /* [batch, keys], or null: all keys are read */
    float *out;                          /* [batch, times, heads, HEAD] */
    float *log_sums;                     /* [batch, heads, times]: base-2 logarithms of the sums of exponentials, or null */
    const float *to_out;                 /* gradient, like out */
    float *to_q, *to_k, *to_v;           /* gradients, [batch, times or keys, heads or kv_heads, HEAD] */
    long batch, heads, kv_heads, times, keys;
    long q_batch, q_head, q_time, k_batch, k_head, k_time, v_batch, v_head, v_time;
    float scale;
    int causal;
};
