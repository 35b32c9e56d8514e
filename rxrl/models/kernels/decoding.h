/* One token a row through all layers of a decoder. Work is cut into items that threads share: columns of a product, heads of a row, experts. */
#define inverse_length KERNEL(inverse_length)
#define rotated KERNEL(rotated)
#define read_head KERNEL(read_head)
#define add_mapped KERNEL(add_mapped)

/* 1 / sqrt(|x|^2 + floor^2): with sqrt(dim) in the weights, one over the root mean square. */
static inline float inverse_length(const float *x, long dim, float floor)
{
    vec sum = {};
    for (long d = 0; d < dim; d += LANES)
        sum += load(x + d) * load(x + d);
    return 1.0f / sqrtf(total(sum) + floor * floor);
}

/* Turns adjacent pairs of a head, scaled; angles as cosine and sine of each pair. */
static inline void rotated(const float *from, float scale, const float *angles, float *to)
{
    for (int pair = 0; pair < HEAD / 2; pair++) {
        float first = from[2 * pair] * scale, second = from[2 * pair + 1] * scale, cosine = angles[2 * pair], sine = angles[2 * pair + 1];
        to[2 * pair] = first * cosine - second * sine;
        to[2 * pair + 1] = first * sine + second * cosine;
    }
}

/* TILE columns of queries, keys and values of a block of rows: rotated, and keys and values put behind those of the row. */
static void KERNEL(heads)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    const float *rows[BLOCK];
    long width = padded((d->heads + 2 * d->kv_heads) * HEAD, KEY_TILE), tiles = width / TILE, block = item / tiles, tile = item % tiles;
    int count = block_of(d->x, d->dim, d->rows, block, rows);
    columns(count, rows, d->dim, layer->heads + tile * TILE, width, scratch, TILE);
    for (int r = 0; r < count; r++) {
        long row = block * BLOCK + r, position = d->positions[row];
        float scale = inverse_length(rows[r], d->dim, d->floor);
        for (long column = 0; column < TILE; column += HEAD) {
            long head = (tile * TILE + column) / HEAD;
            const float *from = scratch + r * TILE + column, *angles = d->angles + position * HEAD;
            if (head < d->heads) {
                rotated(from, scale, angles, d->queries + (row * d->heads + head) * HEAD);
            } else if (head < d->heads + d->kv_heads) {
                float key[HEAD], *to = layer->keys + (d->places[row] * d->kv_heads + head - d->heads) * d->capacity * HEAD;
                rotated(from, scale, angles, key);
                for (int i = 0; i < HEAD; i++)
                    to[position / KEY_TILE * KEY_TILE * HEAD + i * KEY_TILE + position % KEY_TILE] = key[i];
            } else if (head < d->heads + 2 * d->kv_heads) {
                float *to = layer->values + ((d->places[row] * d->kv_heads + head - d->heads - d->kv_heads) * d->capacity + position) * HEAD;
                for (int i = 0; i < HEAD; i++)
                    to[i] = from[i] * scale;
            }
        }
    }
}

/* TILE columns of the queries of memory, rotated. */
static void KERNEL(cross_queries)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    const float *rows[BLOCK];
    long width = padded(d->cross_heads * HEAD, KEY_TILE), tiles = width / TILE, block = item / tiles, tile = item % tiles;
    int count = block_of(d->x, d->dim, d->rows, block, rows);
    columns(count, rows, d->dim, layer->cross_queries + tile * TILE, width, scratch, TILE);
    for (int r = 0; r < count; r++) {
        long row = block * BLOCK + r;
        float scale = inverse_length(rows[r], d->dim, d->floor);
        for (long column = 0; column < TILE; column += HEAD) {
            long head = (tile * TILE + column) / HEAD;
            if (head < d->cross_heads)
                rotated(scratch + r * TILE + column, scale, d->angles + d->positions[row] * HEAD, d->queries + (row * d->cross_heads + head) * HEAD);
        }
    }
}

/* `group` queries of one row read `count` keys in tiles of KEY_TILE. Queries are scaled, for powers of 2. */
static inline void read_head(const float *queries, int group, const float *keys, const float *values, long count, float *to, float *scores)
{
    long width = padded(count, KEY_TILE);
    const float *rows[group];
    for (int g = 0; g < group; g++)
        rows[g] = queries + g * HEAD;
    for (long j = 0; j < width; j += TILE)
        columns(group, rows, HEAD, keys + j / KEY_TILE * KEY_TILE * HEAD + j % KEY_TILE, KEY_TILE, scores + j, width);
    for (int g = 0; g < group; g++) {
        float *row = scores + g * width;
        for (long j = count; j < width; j++)
            row[j] = -INFINITY;
        float most = largest(row, width);
        vec sum = {}, sums[4][HEAD / LANES] = {};
        for (long j = 0; j < width; j += LANES) {
            vec share = power(load(row + j) - most);
            sum += share;
            store(row + j, share);
        }
        float inverse = 1.0f / total(sum);
        long j = 0;
        for (; j + 4 <= count; j += 4)
            UNROLL for (int chain = 0; chain < 4; chain++)
                UNROLL for (int part = 0; part < HEAD / LANES; part++)
                    sums[chain][part] += row[j + chain] * load(values + (j + chain) * HEAD + part * LANES);
        for (; j < count; j++)
            for (int part = 0; part < HEAD / LANES; part++)
                sums[0][part] += row[j] * load(values + j * HEAD + part * LANES);
        for (int part = 0; part < HEAD / LANES; part++)
            store(to + g * HEAD + part * LANES, (sums[0][part] + sums[1][part] + (sums[2][part] + sums[3][part])) * inverse);
    }
}

/* What one row reads of its own tokens, one head of keys and values. */
static void KERNEL(read_tokens)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    long row = item / d->kv_heads, head = item % d->kv_heads, place = (d->places[row] * d->kv_heads + head) * d->capacity * HEAD;
    int group = (int)(d->heads / d->kv_heads);
    long from = (row * d->heads + head * group) * HEAD;
    read_head(d->queries + from, group, layer->keys + place, layer->values + place, d->positions[row] + 1, d->attended + from, scratch);
}

/* What one row reads of memory, one head of keys and values. */
static void KERNEL(read_memory)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    long row = item / d->cross_kv_heads, head = item % d->cross_kv_heads, place = d->places[row] * d->cross_kv_heads + head;
    int group = (int)(d->cross_heads / d->cross_kv_heads);
    long from = (row * d->cross_heads + head * group) * HEAD;
    const float *keys = layer->memory_keys + place * padded(d->slots, KEY_TILE) * HEAD, *values = layer->memory_values + place * d->slots * HEAD;
    read_head(d->queries + from, group, keys, values, d->slots, d->attended + from, scratch);
}

/* TILE columns of a linear map of what was read, added to x. */
static inline void add_mapped(const struct decoding *d, long depth, const float *weights, const float *bias, long item, float *scratch)
{
    const float *rows[BLOCK];
    long tiles = d->dim / TILE, block = item / tiles, column = item % tiles * TILE;
    int count = block_of(d->attended, depth, d->rows, block, rows);
    columns(count, rows, depth, weights + column, d->dim, scratch, TILE);
    for (int r = 0; r < count; r++)
        for (long i = 0; i < TILE; i++)
            d->x[(block * BLOCK + r) * d->dim + column + i] += scratch[r * TILE + i] + bias[column + i];
}

static void KERNEL(add_tokens)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    add_mapped(d, d->heads * HEAD, layer->heads_out, layer->heads_out_bias, item, scratch);
}

static void KERNEL(add_memory)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    add_mapped(d, d->cross_heads * HEAD, layer->cross_out, layer->cross_out_bias, item, scratch);
}

/* Normalised rows of a block, and which experts they visit with what shares. */
static void KERNEL(route)(const struct decoding *d, const struct layer *layer, long block, float *scratch)
{
    const float *rows[BLOCK];
    int count = block_of(d->normed, d->dim, d->rows, block, rows);
    long width = padded(d->experts, KEY_TILE);
    for (int r = 0; r < count; r++) {
        const float *x = d->x + (block * BLOCK + r) * d->dim;
        float scale = inverse_length(x, d->dim, d->floor), *to = (float *)rows[r];
        for (long i = 0; i < d->dim; i += LANES)
            store(to + i, load(x + i) * scale * load(layer->feed_forward_norm + i));
    }
    if (d->experts == 1)
        return;
    for (long column = 0; column < width; column += TILE)
        columns(count, rows, d->dim, layer->router + column, width, scratch + column, width);
    for (int r = 0; r < count; r++) {
        float *scores = scratch + r * width, sum = 0.0f, *shares = d->shares + (block * BLOCK + r) * d->active;
        int *chosen = d->chosen + (block * BLOCK + r) * d->active;
        for (long k = 0; k < d->active; k++) {
            long best = -1;
            for (long e = 0; e < d->experts; e++) {
                int taken = 0;
                for (long before = 0; before < k; before++)
                    taken |= chosen[before] == e;
                if (!taken && (best < 0 || scores[e] > scores[best]))
                    best = e;
            }
            chosen[k] = (int)best;
            shares[k] = expf(scores[best] - scores[chosen[0]]);
            sum += shares[k];
        }
        for (long k = 0; k < d->active; k++)
            shares[k] /= sum;
    }
}

/* One expert for all rows that visit it; a block of rows where there is one for all. */
static void KERNEL(visit)(const struct decoding *d, const struct layer *layer, long item, float *scratch)
{
    const float *rows[BLOCK], *hidden_rows[BLOCK];
    int routed = d->experts > 1;
    long visits[BLOCK], expert = routed ? item : 0, width = 2 * d->hidden;
    long next = routed ? 0 : item * BLOCK, end = routed ? d->rows * d->active : least(d->rows, next + BLOCK);
    const float *w1 = layer->w1 + expert * d->dim * width, *w2 = layer->w2 + expert * d->hidden * d->dim;
    const float *b1 = layer->b1 + expert * width, *b2 = layer->b2 + expert * d->dim;
    float *hidden = scratch, *out = scratch + BLOCK * width;
    while (next < end) {
        int count = 0;
        for (; next < end && count < BLOCK; next++)
            if (!routed || d->chosen[next] == expert) {
                rows[count] = d->normed + next / d->active * d->dim;
                hidden_rows[count] = hidden + count * width;
                visits[count++] = next;
            }
        for (long column = 0; column < width; column += TILE)
            columns(count, rows, d->dim, w1 + column, width, hidden + column, width);
        for (int r = 0; r < count; r++)
            for (long i = 0; i < d->hidden; i += LANES) {
                float *value = hidden + r * width + i, *gate = value + d->hidden;
                store(value, swiglu(load(value) + load(b1 + i), load(gate) + load(b1 + d->hidden + i)));
            }
        for (long column = 0; column < d->dim; column += TILE)
            columns(count, hidden_rows, d->hidden, w2 + column, d->dim, out + column, d->dim);
        for (int r = 0; r < count; r++) {
            float share = routed ? d->shares[visits[r]] : 1.0f;
            for (long i = 0; i < d->dim; i += LANES)
                store(d->visits + visits[r] * d->dim + i, share * (load(out + r * d->dim + i) + load(b2 + i)));
        }
    }
}

/* What its experts gave a row, added to x. */
static void KERNEL(add_visits)(const struct decoding *d, const struct layer *layer, long row, float *scratch)
{
    (void)layer, (void)scratch;
    for (long k = 0; k < d->active; k++)
        for (long i = 0; i < d->dim; i += LANES)
            store(d->x + row * d->dim + i, load(d->x + row * d->dim + i) + load(d->visits + (row * d->active + k) * d->dim + i));
}

static phase *const KERNEL(phases)[PHASES] = {
    KERNEL(heads), KERNEL(read_tokens), KERNEL(add_tokens), KERNEL(cross_queries), KERNEL(read_memory),
    KERNEL(add_memory), KERNEL(route), KERNEL(visit), KERNEL(add_visits),
};
#undef inverse_length
#undef rotated
#undef read_head
#undef add_mapped
