/* What Python hands over: the same fields in the same order as in attention.py and decoding.py. Strides count floats. */

/* Raised with every change of a struct or a function, here and in library.py. */
#define VERSION 1

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

/* Keys of a tile in a decoder's cache: [..., keys / KEY_TILE, HEAD, KEY_TILE]. */
#define KEY_TILE 32

struct layer {
    const float *heads;                              /* [dim, (heads + 2 kv_heads) HEAD, filled up to KEY_TILE]: norm and scale in them */
    const float *heads_out, *heads_out_bias;         /* [heads HEAD, dim], [dim] */
    const float *cross_queries;                      /* [dim, cross_heads HEAD, filled up]: norm and scale in them */
    const float *cross_out, *cross_out_bias;         /* [cross_heads HEAD, dim], [dim] */
    const float *feed_forward_norm;                  /* [dim] */
    const float *router;                             /* [dim, experts, filled up] */
    const float *w1, *b1, *w2, *b2;                  /* [experts, dim, 2 hidden], [experts, 2 hidden], [experts, hidden, dim], [experts, dim] */
    float *keys, *values;                            /* [places, kv_heads, capacity in tiles], [places, kv_heads, capacity, HEAD] */
    const float *memory_keys, *memory_values;        /* [places, cross_kv_heads, slots in tiles], [places, cross_kv_heads, slots, HEAD] */
};

struct decoding {
    const struct layer *layers;
    const long *positions, *places;                  /* [rows]: of the new tokens, and where the rows' keys and values stand */
    const float *angles;                             /* [capacity, HEAD / 2, 2]: cosines and sines */
    float *x;                                        /* [rows, dim]: embedded tokens in, hidden states out */
    float *queries, *attended, *normed, *shares;     /* [rows, most heads, HEAD] twice, [rows, dim], [rows, active] */
    float *visits;                                   /* [rows, active, dim] */
    int *chosen;                                     /* [rows, active] */
    long depth, rows, dim, heads, kv_heads, cross_heads, cross_kv_heads, capacity, slots, experts, active, hidden;
    float floor;                                     /* square root of dim times the norm's epsilon */
};
