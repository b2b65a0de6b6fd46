// One decoding step on a CPU: a few tokens, mostly the newest of some sequences, through the whole model in plain C++.
//
// It computes what `Transformer.forward` computes, in the same order; read that first. What it is for: at one token a
// sequence, the time is that of reading every weight once, and anything else (starting threads for each product,
// calling a function for each norm) doubles it. So the threads start once a step, and meet at a barrier only where one
// needs what another has computed. Sums are float32; weights are float32, bfloat16, or int8 with a scale a row.
//
// Letters: N tokens, C hidden, H query heads, K key/value heads, D head_dim, F feed-forward, E experts, V vocabulary.
#include <algorithm>
#include <cmath>

#include "products.h"

template <class V, class To> static void rms_norm(const float* x, const V* weight, int64_t size, float eps, To* out) {
    float squares = 0;
    for (int64_t i = 0; i < size; i++) squares += x[i] * x[i];
    float scale = 1 / std::sqrt(squares / size + eps);
    for (int64_t i = 0; i < size; i++) store(out + i, x[i] * scale * to_float(weight[i]));
}

static void rotate(float* x, const float* cos, const float* sin, int64_t head_dim) {
    int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

constexpr int64_t PAGE = 16;  // as in `model/cache.py`

// Keys or values of one sequence in one layer and head: page i of the sequence is page table[i] of the cache.
template <class V> struct Paged {
    V* store;
    const int64_t* table;
    int64_t D;
    V* page(int64_t i) const { return store + table[i] * PAGE * D; }
    V* at(int64_t position) const { return page(position / PAGE) + position % PAGE * D; }
};

// Channels i to i + R · LANES - 1 of the values of a sequence, by their weights: R · G sums are in flight.
template <int G, int R, class V>
static void mix(const float* weights, Paged<V> values, int64_t length, int64_t i, float* out) {
    vec sums[G][R] = {};
    const int64_t D = values.D, last = (length - 1) / PAGE;
    for (int64_t page = 0; page <= last; page++) {
        const V *row = values.page(page) + i, *next = values.page(std::min(page + 1, last)) + i;
        for (int64_t s = page * PAGE; s < std::min(length, (page + 1) * PAGE); s++, row += D, next += D) {
            vec value[R];
            for (int r = 0; r < R; r++) {
                value[r] = load(row + r * LANES);
                __builtin_prefetch(next + r * LANES);
            }
            for (int g = 0; g < G; g++)
                for (int r = 0; r < R; r++) sums[g][r] += weights[g * length + s] * value[r];
        }
    }
    for (int g = 0; g < G; g++) std::memcpy(out + g * D + i, sums[g], sizeof sums[g]);
}

// softmax(q · kᵀ / √D) · v over the first `length` positions, for G heads that share keys and values: each is read once,
// page by page. `scores` has room for G · length, `out` gets G · D.
template <int G, class V>
static void attend(const float* q, Paged<V> keys, Paged<V> values, int64_t length, float* scores, float* out) {
    const int64_t D = keys.D, last = (length - 1) / PAGE;
    for (int64_t page = 0; page <= last; page++) {
        const V *key_row = keys.page(page), *next = keys.page(std::min(page + 1, last));
        for (int64_t s = page * PAGE; s < std::min(length, (page + 1) * PAGE); s++, key_row += D, next += D) {
            vec sums[G] = {};
            for (int64_t i = 0; i < D; i += LANES) {
                vec key = load(key_row + i);
                for (int g = 0; g < G; g++) sums[g] += load(q + g * D + i) * key;
                __builtin_prefetch(next + i);
            }
            for (int g = 0; g < G; g++) scores[g * length + s] = sum(sums[g]) / std::sqrt(float(D));
        }
    }
    for (int g = 0; g < G; g++) {
        float *p = scores + g * length, highest = *std::max_element(p, p + length), total = 0;
        for (int64_t s = 0; s < length; s++) total += p[s] = std::exp(p[s] - highest);
        for (int64_t s = 0; s < length; s++) p[s] /= total;
    }
    int64_t i = 0;
    for (; i + 2 * LANES <= D; i += 2 * LANES) mix<G, 2>(scores, values, length, i, out);
    for (; i < D; i += LANES) mix<G, 1>(scores, values, length, i, out);
}

// The same for any number of heads.
template <class V>
static void attend(int64_t group, const float* q, Paged<V> keys, Paged<V> values, int64_t length, float* scores, float* out) {
    int64_t g = 0, D = keys.D;
    for (; g + 4 <= group; g += 4) attend<4>(q + g * D, keys, values, length, scores, out + g * D);
    for (; g + 2 <= group; g += 2) attend<2>(q + g * D, keys, values, length, scores, out + g * D);
    for (; g < group; g++) attend<1>(q + g * D, keys, values, length, scores, out + g * D);
}

// Which tokens go through an expert, and how much of its output they take.
struct Choice { std::vector<int64_t> tokens; std::vector<float> shares; };

struct Shape {
    int64_t layers, hidden, heads, kv_heads, head_dim, ff, vocab, experts, chosen, normalise;
    float eps;
};

template <class V> static std::vector<Choice> route(const Shape& s, const V* router, const std::vector<float>& x, int64_t N) {
    std::vector<Choice> choices(router ? s.experts : 1);
    for (int64_t n = 0; n < N; n++) {
        if (!router) {  // no experts: one network for all
            choices[0].tokens.push_back(n), choices[0].shares.push_back(1);
            continue;
        }
        std::vector<float> p(s.experts, 0);
        std::vector<int> order(s.experts);
        for (int e = 0; e < s.experts; e++) {
            for (int64_t i = 0; i < s.hidden; i++) p[e] += to_float(router[e * s.hidden + i]) * x[n * s.hidden + i];
            order[e] = e;
        }
        float highest = *std::max_element(p.begin(), p.end()), total = 0, chosen = 0;
        for (float& score : p) total += score = std::exp(score - highest);
        std::partial_sort(order.begin(), order.begin() + s.chosen, order.end(), [&](int a, int b) { return p[a] > p[b]; });
        for (int j = 0; j < s.chosen; j++) chosen += p[order[j]];
        for (int j = 0; j < s.chosen; j++) {
            choices[order[j]].tokens.push_back(n);
            choices[order[j]].shares.push_back(p[order[j]] / (s.normalise ? chosen : total));
        }
    }
    return choices;
}

// The weights, in the order in which `decode.py` lists them.
template <class W, class V> struct Model {
    const V *embedding, *norm;
    Matrix<W> head;
};
template <class W, class V> struct Layer {
    const V* attention_norm;
    Matrix<W> q, k, v, o;
    const V *q_norm, *k_norm, *mlp_norm, *router;  // router: null in a layer without experts
    Matrix<W> gate, up, down;                      // of all experts, one after the other
};

// Where keys and values are: of B sequences, whose tables have room for W pages, in a cache of P pages.
struct Cache {
    void *keys, *values;    // [layers, K, P, PAGE, D]
    const int64_t* tables;  // [B, W]
    int64_t pages, width;

    template <class V> Paged<V> of(void* store, int64_t row, int64_t sequence, int64_t D) const {
        return {static_cast<V*>(store) + row * pages * PAGE * D, tables + sequence * width, D};
    }
};

struct Step {
    int64_t tokens, sequences, threads;
    const int64_t *ids, *positions, *owners;  // [N]: token, place in its sequence, which sequence
    const int64_t *last;                      // [B]: the last token of each sequence
    const float *cos, *sin;                   // [N, D / 2]
    Cache cache;
    float* logits;                            // [B, V], of the last tokens
};

static int64_t longest(const int64_t* positions, int64_t N) { return *std::max_element(positions, positions + N) + 1; }

template <class T> static std::vector<const T*> rows_of(const std::vector<T>& buffer, int64_t size) {
    std::vector<const T*> rows;
    for (size_t start = 0; start < buffer.size(); start += size) rows.push_back(buffer.data() + start);
    return rows;
}

template <class W, class V> static void run(const Shape& s, const Step& step, const void* weights) {
    typedef Input<W> In;
    const auto* model = static_cast<const Model<W, V>*>(weights);
    const Cache& cache = step.cache;
    const auto* layers = reinterpret_cast<const Layer<W, V>*>(model + 1);
    const int64_t N = step.tokens, C = s.hidden, D = s.head_dim, F = s.ff, Q = s.heads * D, KV = s.kv_heads * D;
    const int64_t group = s.heads / s.kv_heads, pairs = N * (s.experts ? s.chosen : 1);  // of a token and an expert
    std::vector<float> x(N * C), q(N * Q), k(N * KV), v(N * KV), gate(pairs * F), up(pairs * F);
    std::vector<In> mixed(N * Q), act(pairs * F);

#pragma omp parallel num_threads(step.threads)
    {
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const TileSetup tiles;
        std::vector<float> scores(group * longest(step.positions, N)), heads(group * D), routed(N * C);
        std::vector<In> normed(N * C);
        const Inputs<W> normed_rows = rows_of(normed, C), mixed_rows = rows_of(mixed, Q), act_rows = rows_of(act, F);
        // Every thread norms all tokens for itself: that is quicker than to wait for another.
        auto norm_all = [&](const V* weight) {
            for (int64_t n = 0; n < N; n++) rms_norm(&x[n * C], weight, C, s.eps, &normed[n * C]);
        };
        for (int64_t n = thread; n < N; n += threads)
            for (int64_t i = 0; i < C; i++) x[n * C + i] = to_float(model->embedding[step.ids[n] * C + i]);
#pragma omp barrier
        for (int64_t l = 0; l < s.layers; l++) {
            const Layer<W, V>& layer = layers[l];
            norm_all(layer.attention_norm);
            product(layer.q, Q, C, normed_rows, [&](int64_t n, int64_t o, float y) { q[n * Q + o] = y; });
            product(layer.k, KV, C, normed_rows, [&](int64_t n, int64_t o, float y) { k[n * KV + o] = y; });
            product(layer.v, KV, C, normed_rows, [&](int64_t n, int64_t o, float y) { v[n * KV + o] = y; });
#pragma omp barrier
            auto paged = [&](void* store, int64_t task) {
                return cache.of<V>(store, l * s.kv_heads + task % s.kv_heads, step.owners[task / s.kv_heads], D);
            };
            for (int64_t task = thread; task < N * s.kv_heads; task += threads) {
                const int64_t n = task / s.kv_heads, position = step.positions[n];
                rms_norm(&k[task * D], layer.k_norm, D, s.eps, &k[task * D]);
                rotate(&k[task * D], step.cos + n * D / 2, step.sin + n * D / 2, D);
                V *key = paged(cache.keys, task).at(position), *value = paged(cache.values, task).at(position);
                for (int64_t i = 0; i < D; i++) store(key + i, k[task * D + i]), store(value + i, v[task * D + i]);
            }
#pragma omp barrier  // a token sees those before it, which may be of this pass
            for (int64_t task = thread; task < N * s.kv_heads; task += threads) {
                const int64_t n = task / s.kv_heads;
                float* own_q = &q[task * group * D];
                for (int64_t g = 0; g < group; g++) {
                    rms_norm(own_q + g * D, layer.q_norm, D, s.eps, own_q + g * D);
                    rotate(own_q + g * D, step.cos + n * D / 2, step.sin + n * D / 2, D);
                }
                attend(group, own_q, paged(cache.keys, task), paged(cache.values, task), step.positions[n] + 1, &scores[0], &heads[0]);
                for (int64_t i = 0; i < group * D; i++) store(&mixed[task * group * D + i], heads[i]);
            }
#pragma omp barrier
            product(layer.o, C, Q, mixed_rows, [&](int64_t n, int64_t o, float y) { x[n * C + o] += y; });
#pragma omp barrier
            norm_all(layer.mlp_norm);
            if (layer.router)  // an expert is chosen by exact scores
                for (int64_t n = 0; n < N; n++) rms_norm(&x[n * C], layer.mlp_norm, C, s.eps, &routed[n * C]);
            const std::vector<Choice> choices = route(s, layer.router, routed, N);
            int64_t pair = 0, begin, end;
            my_rows(F, &begin, &end);
            for (size_t e = 0; e < choices.size(); e++) {
                Inputs<W> inputs;
                for (int64_t n : choices[e].tokens) inputs.push_back(normed_rows[n]);
                float *gates = &gate[pair * F], *ups = &up[pair * F];
                product(expert(layer.gate, e, F, C), F, C, inputs, [=](int64_t j, int64_t o, float y) { gates[j * F + o] = y; });
                product(expert(layer.up, e, F, C), F, C, inputs, [=](int64_t j, int64_t o, float y) { ups[j * F + o] = y; });
                pair += inputs.size();
            }
            for (int64_t j = 0; j < pairs; j++)
                for (int64_t o = j * F + begin; o < j * F + end; o++) store(&act[o], gate[o] / (1 + std::exp(-gate[o])) * up[o]);
#pragma omp barrier
            pair = 0;
            for (size_t e = 0; e < choices.size(); e++) {
                const Choice& choice = choices[e];
                const Inputs<W> inputs(act_rows.begin() + pair, act_rows.begin() + pair + choice.tokens.size());
                product(expert(layer.down, e, C, F), C, F, inputs,
                        [&](int64_t j, int64_t o, float y) { x[choice.tokens[j] * C + o] += choice.shares[j] * y; });
                pair += inputs.size();
            }
#pragma omp barrier
        }
        norm_all(model->norm);
        Inputs<W> last;
        for (int64_t i = 0; i < step.sequences; i++) last.push_back(normed_rows[step.last[i]]);
        product(model->head, s.vocab, C, last, [&](int64_t i, int64_t o, float y) { step.logits[i * s.vocab + o] = y; });
    }
}

// The attention alone, for passes that go through the model: the newest token of each of N sequences.
struct Newest {
    int64_t tokens, heads, kv_heads, head_dim, threads;
    const void* q;             // [N, H, D]
    const int64_t* positions;  // [N]
    Cache cache;               // of one layer
    void* out;                 // [N, H, D]
};

template <class V> static void attend_newest(const Newest& a) {
    const int64_t D = a.head_dim, group = a.heads / a.kv_heads, N = a.tokens;
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<float> scores(group * longest(a.positions, N)), q(group * D), heads(group * D);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < N * a.kv_heads; task++) {
            const int64_t n = task / a.kv_heads, head = task % a.kv_heads, at = task * group * D;
            for (int64_t i = 0; i < group * D; i++) q[i] = to_float(static_cast<const V*>(a.q)[at + i]);
            attend(group, &q[0], a.cache.of<V>(a.cache.keys, head, n, D), a.cache.of<V>(a.cache.values, head, n, D),
                   a.positions[n] + 1, &scores[0], &heads[0]);
            for (int64_t i = 0; i < group * D; i++) store(static_cast<V*>(a.out) + at + i, heads[i]);
        }
    }
}

// kind: 0 float32, 1 bfloat16.
extern "C" void attend_newest(int kind, const Newest* newest) {
    if (kind == 0) attend_newest<float>(*newest);
    if (kind == 1) attend_newest<bf16>(*newest);
}

// From how many tokens on PyTorch is as fast: there, a pass is bound by arithmetic. Of bfloat16 without the matrix unit, it
// has nothing better than the same instruction.
extern "C" int64_t max_tokens(int kind) {
#ifdef __AVX512BF16__
    if (kind == 1) return matrix_unit ? 64 : 128;
#endif
    return 16;
}

// kind: 0 float32, 1 bfloat16, 2 int8 matrices with everything else in bfloat16, 3 in float32.
extern "C" void decode(int kind, const Shape* shape, const Step* step, const void* weights) {
    if (kind == 0) run<float, float>(*shape, *step, weights);
    if (kind == 1) run<bf16, bf16>(*shape, *step, weights);
    if (kind == 2) run<int8_t, bf16>(*shape, *step, weights);
    if (kind == 3) run<int8_t, float>(*shape, *step, weights);
}
