/* Attention with heads of HEAD numbers, forward and backward, whole rows of scores at a time: they fit the cache. */
#define in_rows KERNEL(in_rows)
#define in_tiles KERNEL(in_tiles)
#define products KERNEL(products)
#define weighted KERNEL(weighted)
#define add_weighted KERNEL(add_weighted)

/* Vectors of a head. */
#define PARTS (HEAD / LANES)

/* The readable ones of `keys` rows of HEAD numbers, one behind the other; their number. */
static inline long in_rows(const float *from, long stride, const unsigned char *readable, long keys, float *rows)
{
    long count = 0;
    for (long j = 0; j < keys; j++)
        if (!readable || readable[j])
            memcpy(rows + count++ * HEAD, from + j * stride, HEAD * sizeof(float));
    return count;
}

/* Rows in tiles [tile, HEAD, TILE], the last one filled up with zeros. */
static inline void in_tiles(const float *rows, long count, float *tiles)
{
    for (long tile = 0; tile < count; tile += TILE, tiles += HEAD * TILE) {
        long here = least(TILE, count - tile);
        for (int d = 0; d < HEAD; d++) {
            for (long j = 0; j < here; j++)
                tiles[d * TILE + j] = rows[(tile + j) * HEAD + d];
            for (long j = here; j < TILE; j++)
                tiles[d * TILE + j] = 0.0f;
        }
    }
}

/* to[row * width + key] = row . key * scale, for ROWS rows and `width` keys in tiles. Scaled here, so that the largest is subtracted exactly. */
static inline void products(const float *const *rows, const float *tiles, long width, float scale, float *to)
{
    for (long j = 0; j < width; j += TILE)
        columns_of(ROWS, rows, HEAD, tiles + j * HEAD, TILE, scale, to + j, width);
}

/* to[row] = sum over `count` keys of weights[row * width + key] * values[key]. Sums wait for one another, so with few of them (CHAINS is 2)
 * every other key goes into a second one. */
static inline void weighted(const float *weights, long width, const float *values, long count, float (*to)[HEAD])
{
    vec sums[CHAINS][ROWS][PARTS] = {};
    long j = 0;
    for (; j + CHAINS <= count; j += CHAINS)
        UNROLL for (int chain = 0; chain < CHAINS; chain++)
            UNROLL for (int part = 0; part < PARTS; part++) {
                vec value = load(values + (j + chain) * HEAD + part * LANES);
                UNROLL for (int r = 0; r < ROWS; r++) sums[chain][r][part] += weights[r * width + j + chain] * value;
            }
    for (int r = 0; r < ROWS; r++)
        for (int part = 0; part < PARTS; part++) {
            vec sum = sums[0][r][part];
            if (j < count)
                sum += weights[r * width + j] * load(values + j * HEAD + part * LANES);
            if (CHAINS == 2)
                sum += sums[CHAINS - 1][r][part];
            store(to[r] + part * LANES, sum);
        }
}

/* to[key] += sum over ROWS rows of weights[row * width + key] * rows[row], for `count` keys. */
static inline void add_weighted(const float *weights, long width, const float *const *rows, long count, float *to)
{
    for (int part = 0; part < PARTS; part++) {
        vec kept[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) kept[r] = load(rows[r] + part * LANES);
        for (long j = 0; j < count; j++) {
            vec sum = load(to + j * HEAD + part * LANES), other = {};
            UNROLL for (int r = 0; r < ROWS; r += 2) {
                sum += weights[r * width + j] * kept[r];
                other += weights[(r + 1) * width + j] * kept[r + 1];
            }
            store(to + j * HEAD + part * LANES, sum + other);
        }
    }
}

/* Keys that the row reads that stands at `row` of a block with `count` keys. */
#define reads(a, time, count) ((a)->causal ? least(count, (time) + 1) : (count))

/* One head of one row of the batch. */
static void KERNEL(attend)(const struct attention *a, long item, float *scratch)
{
    long batch = item / a->heads, head = item % a->heads, kv_head = head / (a->heads / a->kv_heads), width = padded(a->keys, TILE);
    float *values = scratch, *tiles = values + width * HEAD, *scores = tiles + width * HEAD;
    const unsigned char *readable = a->readable ? a->readable + batch * a->keys : NULL;
    /* The place of the values holds the keys until they are in tiles. */
    long count = in_rows(a->k + batch * a->k_batch + kv_head * a->k_head, a->k_time, readable, a->keys, values);
    in_tiles(values, count, tiles);
    in_rows(a->v + batch * a->v_batch + kv_head * a->v_head, a->v_time, readable, a->keys, values);
    for (long t = 0; t < a->times; t += ROWS) {
        const float *queries[ROWS];
        float sums[ROWS][HEAD] __attribute__((aligned(64))) = {}, inverse[ROWS];
        for (int r = 0; r < ROWS; r++)
            queries[r] = a->q + batch * a->q_batch + head * a->q_head + least(t + r, a->times - 1) * a->q_time;
        long read = reads(a, t + ROWS - 1, count), here = padded(read, TILE);
        products(queries, tiles, here, a->scale * LOG2_E, scores);
        for (int r = 0; r < ROWS; r++) {
            float *row = scores + r * here;
            for (long j = reads(a, t + r, count); j < here; j++)
                row[j] = -INFINITY;
            float most = count ? largest(row, here) : 0.0f;
            vec sum = {};
            for (long j = 0; j < here; j += LANES) {
                vec share = power(load(row + j) - most);
                sum += share;
                store(row + j, share);
            }
            /* The power of minus infinity is not quite nothing. */
            for (long j = reads(a, t + r, count); j < here; j++)
                row[j] = 0.0f;
            float all = total(sum);
            inverse[r] = count ? 1.0f / all : 0.0f;
            if (a->log_sums && t + r < a->times)
                a->log_sums[item * a->times + t + r] = most + log2f(all);
        }
        weighted(scores, here, values, read, sums);
        for (int r = 0; r < ROWS && t + r < a->times; r++)
            for (int d = 0; d < HEAD; d++)
                a->out[((batch * a->times + t + r) * a->heads + head) * HEAD + d] = sums[r][d] * inverse[r];
    }
}

/* One head of keys and values of one row of the batch, with all heads that read it (Dao et al. 2022, algorithm 4). */
static void KERNEL(differentiate)(const struct attention *a, long item, float *scratch)
{
    long batch = item / a->kv_heads, kv_head = item % a->kv_heads, group = a->heads / a->kv_heads, width = padded(a->keys, TILE);
    float *keys = scratch, *key_tiles = keys + width * HEAD, *value_tiles = key_tiles + width * HEAD;
    float *to_keys = value_tiles + width * HEAD, *to_values = to_keys + width * HEAD;
    float *shares = to_values + width * HEAD, *to_scores = shares + ROWS * width;
    const unsigned char *readable = a->readable ? a->readable + batch * a->keys : NULL;
    long count = in_rows(a->v + batch * a->v_batch + kv_head * a->v_head, a->v_time, readable, a->keys, keys);
    in_tiles(keys, count, value_tiles);
    in_rows(a->k + batch * a->k_batch + kv_head * a->k_head, a->k_time, readable, a->keys, keys);
    in_tiles(keys, count, key_tiles);
    memset(to_keys, 0, 2 * width * HEAD * sizeof(float));
    for (long head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (long t = 0; t < a->times; t += ROWS) {
            const float *queries[ROWS], *to_outs[ROWS];
            float sums[ROWS][HEAD] __attribute__((aligned(64))) = {};
            long place[ROWS];
            for (int r = 0; r < ROWS; r++) {
                long time = least(t + r, a->times - 1);
                place[r] = ((batch * a->times + time) * a->heads + head) * HEAD;
                queries[r] = a->q + batch * a->q_batch + head * a->q_head + time * a->q_time;
                to_outs[r] = a->to_out + place[r];
            }
            long read = reads(a, t + ROWS - 1, count), here = padded(read, TILE);
            products(queries, key_tiles, here, a->scale * LOG2_E, shares);
            products(to_outs, value_tiles, here, 1.0f, to_scores);
            for (int r = 0; r < ROWS; r++) {
                float *share = shares + r * here, *to_score = to_scores + r * here;
                long present = t + r < a->times ? reads(a, t + r, count) : 0;
                float inner = 0.0f, log_sum = present ? a->log_sums[(batch * a->heads + head) * a->times + t + r] : 0.0f;
                for (int d = 0; d < HEAD; d++)
                    inner += a->out[place[r] + d] * to_outs[r][d];
                for (long j = 0; j < padded(present, LANES); j += LANES) {
                    vec probability = power(load(share + j) - log_sum);
                    store(share + j, probability);
                    store(to_score + j, probability * (load(to_score + j) - inner) * a->scale);
                }
                memset(share + present, 0, (here - present) * sizeof(float));
                memset(to_score + present, 0, (here - present) * sizeof(float));
            }
            weighted(to_scores, here, keys, read, sums);
            for (int r = 0; r < ROWS && t + r < a->times; r++)
                memcpy(a->to_q + place[r], sums[r], sizeof sums[r]);
            add_weighted(to_scores, here, queries, read, to_keys);
            add_weighted(shares, here, to_outs, read, to_values);
        }
    for (long j = 0, kept = 0; j < a->keys; j++) {
        long place = ((batch * a->keys + j) * a->kv_heads + kv_head) * HEAD;
        if (readable && !readable[j]) {
            memset(a->to_k + place, 0, HEAD * sizeof(float));
            memset(a->to_v + place, 0, HEAD * sizeof(float));
            continue;
        }
        memcpy(a->to_k + place, to_keys + kept * HEAD, HEAD * sizeof(float));
        memcpy(a->to_v + place, to_values + kept++ * HEAD, HEAD * sizeof(float));
    }
}
#undef in_rows
#undef in_tiles
#undef products
#undef weighted
#undef add_weighted
#undef reads
#undef PARTS
