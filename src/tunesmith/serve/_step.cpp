// A step of a MusicGen's decoder on a CPU: all its layers in one call, for a handful of rows.
//
// One token is so little work that a library's calls, the threads it wakes for each and the passes over
// small tensors cost more than the products. Here the threads are woken once a step and meet at barriers;
// what remains is reading the weights. Compiled where it runs, by tunesmith/serve/_native.py.
//
// A row's numbers depend on nothing but the row: every sum has an order of its own, and the functions that
// a whole step is made of are the very ones (noinline) that its parts are made of where rows ask for
// adapters. No number is lost: NaN goes through to the logits.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

#include "_pick.h"
#include "_step.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int64_t OUTS = 4; // outputs of a product at a time, in float32

// --- what Python lays out: tunesmith/serve/_stepped.py has the same structures ---

struct Product {        // y = W x, [d, k]
    const void *weight; // float32 [d, k], or uint8 [d/16, k/4, 16, 4] of w + 128
    const float *scale; // [d] of the outputs, in 8 bits; else null
    int64_t d, k;
};

struct Norm {
    const float *weight, *bias;
    float eps;
};

struct Layer {
    Product qkv, out, text_q, text_out, up, down;
    Norm own_norm, text_norm, wide_norm;
    float *own, *text; // caches [R, positions, 2 D] and [R, texts, 2 D], keys before values
};

struct Model {
    int64_t rows, width, wide, heads, layers, positions, texts, codebooks, codes, gelu;
    const Layer *layer;
    Norm norm;
    Product logits;
    const float *tables, *places; // [K (V + 1), D], [positions, D]
    const float *text_mask;       // [R, texts]
    float *x, *qkv, *heard, *inner, *query; // [R, D], [R, 3 D], [R, D], [R, wide], [R, D]
    float *scratch;               // of each thread, `room` numbers
    int64_t room;
};

STAGE activate(float *y, int64_t count, int64_t smooth) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vector v = at(y + i);
        put(y + i, smooth ? gelu(v) : (v < 0.0f ? Vector{} : v));
    }
}

// --- norms ---

STAGE normalise(const Norm &norm, const float *x, float *y, int64_t width) {
    Vector total{}, squares{};
    for (int64_t i = 0; i < width; i += LANES) total += at(x + i);
    const float mean = sum(total) / width;
    for (int64_t i = 0; i < width; i += LANES) {
        const Vector off = at(x + i) - mean;
        squares += off * off;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / width + norm.eps);
    for (int64_t i = 0; i < width; i += LANES)
        put(y + i, (at(x + i) - mean) * scale * at(norm.weight + i) + at(norm.bias + i));
}

// --- products ---

// M rows with OUTS outputs, whose weights are read once; further rows find them in the nearest cache.
template <int M>
inline void dots(const float *weight, const float *x, float *y, int64_t d, int64_t k) {
    Vector total[OUTS][M] = {};
    for (int64_t i = 0; i < k; i += LANES) {
        Vector of[M];
        for (int m = 0; m < M; m++) of[m] = at(x + m * k + i);
        for (int o = 0; o < OUTS; o++) {
            __builtin_prefetch(weight + o * k + i + 512);
            const Vector w = at(weight + o * k + i);
            for (int m = 0; m < M; m++) total[o][m] += w * of[m];
        }
    }
    for (int o = 0; o < OUTS; o++)
        for (int m = 0; m < M; m++) y[m * d + o] = sum(total[o][m]);
}

STAGE multiply(const Product &p, const float *x, float *y, int64_t rows, Part part) {
    int64_t begin, end;
    part.range(p.d / OUTS, begin, end);
    for (int64_t o = begin * OUTS; o < end * OUTS; o += OUTS) {
        const float *weight = static_cast<const float *>(p.weight) + o * p.k;
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) dots<4>(weight, x + r * p.k, y + r * p.d + o, p.d, p.k);
        for (; r < rows; r += 2) dots<2>(weight, x + r * p.k, y + r * p.d + o, p.d, p.k);
    }
}

#ifdef __AVX512VNNI__
// Each row to 127 steps of its own on either side of zero; sums of what it holds, for the weights' +128.
STAGE narrow(const float *x, int8_t *q, float *scale, int32_t *offset, int64_t k) {
    Vector largest{}, total{};
    for (int64_t i = 0; i < k; i += LANES) {
        const Vector v = at(x + i), a = v < 0.0f ? -v : v;
        largest = a > largest ? a : largest;
        total += a;
    }
    float most = 1e-12f;
    for (int lane = 0; lane < LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
    const float whole = sum(total), steps = 127.0f / most;
    *scale = whole - whole == 0.0f ? most / 127.0f : NAN; // what is no number has to stay none
    __m512i held = _mm512_setzero_si512();
    for (int64_t i = 0; i < k; i += LANES) {
        const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(steps)));
        held = _mm512_add_epi32(held, v);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(q + i), _mm512_cvtsepi32_epi8(v));
    }
    *offset = 128 * _mm512_reduce_add_epi32(held);
}

template <int M>
inline void blocks(const Product &p, const uint8_t *weight, const int8_t *q, const float *scale,
                   const int32_t *offset, float *y, int64_t o) {
    __m512i total[M];
    for (int m = 0; m < M; m++) total[m] = _mm512_setzero_si512();
    for (int64_t i = 0; i < p.k; i += 4) {
        _mm_prefetch(reinterpret_cast<const char *>(weight + 16 * i + 2048), _MM_HINT_T0);
        const __m512i w = _mm512_loadu_si512(weight + 16 * i);
        for (int m = 0; m < M; m++) {
            int32_t four;
            std::memcpy(&four, q + m * p.k + i, 4);
            total[m] = _mm512_dpbusd_epi32(total[m], w, _mm512_set1_epi32(four));
        }
    }
    for (int m = 0; m < M; m++) {
        const __m512 whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(total[m], _mm512_set1_epi32(offset[m])));
        const __m512 s = _mm512_mul_ps(_mm512_loadu_ps(p.scale + o), _mm512_set1_ps(scale[m]));
        _mm512_storeu_ps(y + m * p.d + o, _mm512_mul_ps(whole, s));
    }
}

STAGE multiply8(const Product &p, const int8_t *q, const float *scale, const int32_t *offset, float *y,
                int64_t rows, Part part) {
    int64_t begin, end;
    part.range(p.d / LANES, begin, end);
    for (int64_t block = begin; block < end; block++) {
        const uint8_t *weight = static_cast<const uint8_t *>(p.weight) + block * LANES * p.k;
        int64_t r = 0;
        for (; r + 8 <= rows; r += 8)
            blocks<8>(p, weight, q + r * p.k, scale + r, offset + r, y + r * p.d, block * LANES);
        for (; r < rows; r += 2)
            blocks<2>(p, weight, q + r * p.k, scale + r, offset + r, y + r * p.d, block * LANES);
    }
}
#endif

// A thread's share of a product. In 8 bits, every thread rounds the inputs for itself.
void product(const Product &p, const float *x, float *y, int64_t rows, float *room, Part part) {
    if (!p.scale) return multiply(p, x, y, rows, part);
#ifdef __AVX512VNNI__
    int32_t *offset = reinterpret_cast<int32_t *>(room + rows);
    int8_t *q = reinterpret_cast<int8_t *>(room + 2 * rows);
    for (int64_t r = 0; r < rows; r++) narrow(x + r * p.k, q + r * p.k, room + r, offset + r, p.k);
    multiply8(p, q, room, offset, y, rows, part);
#endif
}

// --- attention ---

// One row's head: n places at `stride`, values `beyond` the keys; a mask is added to the scores.
STAGE attend(const float *query, const float *keys, int64_t stride, int64_t beyond, int64_t n,
             const float *mask, int64_t size, float *scores, float *heard) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    float most = -INFINITY, whole = 0.0f;
    for (int64_t l = 0; l < n; l++) {
        Vector total{};
        for (int64_t i = 0; i < size; i += LANES) total += at(query + i) * at(keys + l * stride + i);
        scores[l] = sum(total) * scale + (mask ? mask[l] : 0.0f);
        most = scores[l] > most ? scores[l] : most;
    }
    for (int64_t l = n; l % LANES; l++) scores[l] = -INFINITY;
    for (int64_t l = 0; l < n; l += LANES) {
        const Vector e = exponential(at(scores + l) - most);
        put(scores + l, e);
        whole += sum(e);
    }
    for (int64_t i = 0; i < size; i += LANES) {
        Vector total{};
        for (int64_t l = 0; l < n; l++) total += scores[l] * at(keys + l * stride + beyond + i);
        put(heard + i, total / whole);
    }
}

// Rows' heads to the sequence, whose keys and values are appended to first, by who needs them.
STAGE attend_own(const Model &m, const Layer &layer, const float *qkv, const int64_t *places, float *heard,
                 float *room, Part part) {
    const int64_t size = m.width / m.heads, stride = 2 * m.width, slots = m.rows / 2;
    int64_t begin, end;
    part.range(m.rows * m.heads, begin, end);
    for (int64_t item = begin; item < end; item++) {
        const int64_t row = item / m.heads, head = item % m.heads, place = places[row % slots];
        const float *from = qkv + row * 3 * m.width + head * size;
        float *cache = layer.own + row * m.positions * stride + head * size, *to = cache + place * stride;
        std::memcpy(to, from + m.width, size * sizeof(float));
        std::memcpy(to + m.width, from + 2 * m.width, size * sizeof(float));
        attend(from, cache, stride, m.width, place + 1, nullptr, size, room,
               heard + row * m.width + head * size);
    }
}

STAGE attend_text(const Model &m, const Layer &layer, const float *query, int64_t texts, float *heard,
                  float *room, Part part) {
    const int64_t size = m.width / m.heads, stride = 2 * m.width;
    int64_t begin, end;
    part.range(m.rows * m.heads, begin, end);
    for (int64_t item = begin; item < end; item++) {
        const int64_t row = item / m.heads, head = item % m.heads, here = row * m.width + head * size;
        attend(query + here, layer.text + row * m.texts * stride + head * size, stride, m.width, texts,
               m.text_mask + row * m.texts, size, room, heard + here);
    }
}

STAGE embed(const Model &m, const int64_t *tokens, const int64_t *places, Part part) {
    const int64_t slots = m.rows / 2;
    int64_t begin, end;
    part.range(m.rows, begin, end);
    for (int64_t row = begin; row < end; row++) {
        const int64_t slot = row % slots;
        for (int64_t i = 0; i < m.width; i += LANES) {
            Vector total{};
            for (int64_t book = 0; book < m.codebooks; book++) {
                const int64_t word = tokens[slot * m.codebooks + book] + book * (m.codes + 1);
                total += at(m.tables + word * m.width + i);
            }
            put(m.x + row * m.width + i, total + at(m.places + places[slot] * m.width + i));
        }
    }
}

STAGE add(float *x, const float *y, int64_t count, Part part) {
    int64_t begin, end;
    part.range(count / LANES, begin, end);
    for (int64_t i = begin * LANES; i < end * LANES; i += LANES) put(x + i, at(x + i) + at(y + i));
}

} // namespace

// --- what Python calls ---

EXPORT int64_t tunesmith_int8() {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

EXPORT void tunesmith_product(const Product *p, const float *x, float *y, int64_t rows, float *scratch,
                              int64_t room, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Part part{omp_get_thread_num(), omp_get_num_threads()};
        product(*p, x, y, rows, scratch + part.number * room, part);
    }
}

EXPORT void tunesmith_embed(const Model *m, const int64_t *tokens, const int64_t *places) {
    embed(*m, tokens, places, Part{0, 1});
}

EXPORT void tunesmith_norm(const Norm *norm, const float *x, float *y, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++) normalise(*norm, x + row * width, y + row * width, width);
}

EXPORT void tunesmith_activate(float *y, int64_t count, int64_t smooth) { activate(y, count, smooth); }

EXPORT void tunesmith_attend(const Model *m, int64_t layer, const float *qkv, const int64_t *places,
                             float *heard, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Part part{omp_get_thread_num(), omp_get_num_threads()};
        attend_own(*m, m->layer[layer], qkv, places, heard, m->scratch + part.number * m->room, part);
    }
}

EXPORT void tunesmith_attend_text(const Model *m, int64_t layer, const float *query, int64_t texts,
                                  float *heard, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const Part part{omp_get_thread_num(), omp_get_num_threads()};
        attend_text(*m, m->layer[layer], query, texts, heard, m->scratch + part.number * m->room, part);
    }
}

// For n of S slots: logits [2 S, K, V], with the text and without; uniform [S, K]; chosen and sums [n, K].
EXPORT void tunesmith_choose(const Choice *how, const int64_t *slots, int64_t n, int64_t all, int64_t books,
                             int64_t codes, const float *logits, const float *uniform, int64_t *chosen,
                             float *sums, uint64_t *scratch, int64_t room, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t item = 0; item < n * books; item++) {
        const int64_t slot = slots[item / books], book = item % books;
        const float *given = logits + (slot * books + book) * codes;
        choose(how[slot], given, given + all * books * codes, codes, uniform[slot * books + book],
               scratch + omp_get_thread_num() * room, chosen[item], sums[item]);
    }
}

// tokens [S, K], places [S], logits [R, K V].
EXPORT void tunesmith_step(const Model *model, const int64_t *tokens, const int64_t *places, int64_t texts,
                           float *logits, int threads) {
    const Model &m = *model;
    Barrier barrier;
#pragma omp parallel num_threads(threads)
    {
        const Part part{omp_get_thread_num(), omp_get_num_threads()};
        float *normed = m.scratch + part.number * m.room, *room = normed + m.rows * m.width;
        const auto meet = [&] { barrier.meet(part.of); };
        const auto norm = [&](const Norm &of) { // each thread for itself: cheaper than to wait
            for (int64_t row = 0; row < m.rows; row++)
                normalise(of, m.x + row * m.width, normed + row * m.width, m.width);
        };
        const auto plus = [&](const Product &p, const float *x) { // to the residual stream
            product(p, x, m.query, m.rows, room, part);
            meet();
            add(m.x, m.query, m.rows * m.width, part);
            meet();
        };
        embed(m, tokens, places, part);
        meet();
        for (int64_t number = 0; number < m.layers; number++) {
            const Layer &layer = m.layer[number];
            norm(layer.own_norm);
            product(layer.qkv, normed, m.qkv, m.rows, room, part);
            meet();
            attend_own(m, layer, m.qkv, places, m.heard, room, part);
            meet();
            plus(layer.out, m.heard);
            norm(layer.text_norm);
            product(layer.text_q, normed, m.query, m.rows, room, part);
            meet();
            attend_text(m, layer, m.query, texts, m.heard, room, part);
            meet();
            plus(layer.text_out, m.heard);
            norm(layer.wide_norm);
            product(layer.up, normed, m.inner, m.rows, room, part);
            meet();
            int64_t begin, end;
            part.range(m.rows * m.wide / LANES, begin, end);
            activate(m.inner + begin * LANES, (end - begin) * LANES, m.gelu);
            meet();
            plus(layer.down, m.inner);
        }
        norm(m.norm);
        product(m.logits, normed, logits, m.rows, room, part);
    }
}
