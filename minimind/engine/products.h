// Products of a matrix and a few vectors, at the speed at which memory gives the matrix.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Floats a register, and tokens at once: ROWS times as many sums must find room in the registers, of which AVX2 has 16.
#if defined(__AVX512F__)
constexpr int LANES = 16, TOKENS = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8, TOKENS = 2;
#else
constexpr int LANES = 4, TOKENS = 4;
#endif
constexpr int ROWS = 4, TILE = 16;  // rows at once: by registers, by the matrix unit
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint16_t vec_u16 __attribute__((vector_size(2 * LANES)));
typedef uint32_t vec_u32 __attribute__((vector_size(4 * LANES)));
typedef int8_t vec_i8 __attribute__((vector_size(LANES)));

struct bf16 { uint16_t bits; };  // the upper half of a float

template <class T> static T read(const void* p) { T v; std::memcpy(&v, p, sizeof v); return v; }
static float to_float(float x) { return x; }
static float to_float(bf16 x) { uint32_t bits = uint32_t(x.bits) << 16; return read<float>(&bits); }
static void store(float* p, float x) { *p = x; }
static void store(bf16* p, float x) {  // to the nearest, ties to even
    uint32_t bits = read<uint32_t>(&x);
    p->bits = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static vec load(const float* p) { return read<vec>(p); }
#if defined(__AVX512F__)  // what the compiler does not find by itself
static vec load(const bf16* p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
static vec load(const int8_t* p) {
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
#elif defined(__AVX2__)
static vec load(const bf16* p) {
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
static vec load(const int8_t* p) {
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
#else
static vec load(const bf16* p) { return (vec)(__builtin_convertvector(read<vec_u16>(p), vec_u32) << 16); }
static vec load(const int8_t* p) { return __builtin_convertvector(read<vec_i8>(p), vec); }
#endif

static float sum(vec v) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

// How weights of type W are multiplied: so many at a time, with inputs of which type.
template <class W> struct Dot {
    typedef float Input;
    static constexpr int STEP = LANES;
    static vec weights(const W* p) { return load(p); }
    static vec inputs(const Input* p) { return load(p); }
    static vec add(vec sum, vec w, vec x) { return sum + w * x; }
};
#ifdef __AVX512BF16__
template <> struct Dot<bf16> {  // one instruction adds 32 products of bfloat16 to 16 sums
    typedef bf16 Input;
    static constexpr int STEP = 2 * LANES;
    static __m512bh weights(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static __m512bh inputs(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static vec add(vec sum, __m512bh w, __m512bh x) { return (vec)_mm512_dpbf16_ps((__m512)sum, w, x); }
};
#endif
template <class W> using Input = typename Dot<W>::Input;
template <class W> using Inputs = std::vector<const Input<W>*>;  // one vector a token

template <class W> struct Matrix { const W* weight; const float* scale; };  // [out, in]; scale [out] for int8, else null

// The matrix of expert `e` among matrices that lie one after the other.
template <class W> static Matrix<W> expert(Matrix<W> m, int64_t e, int64_t out, int64_t in) {
    return {m.weight + e * out * in, m.scale ? m.scale + e * out : nullptr};
}

// put(n, o, sum_i weight[o][i] x[n][i]) for R rows o of the matrix and B tokens n: each weight is read once, and R · B
// sums are in flight, because one alone would wait for each addition to end.
template <int R, int B, class W, class Put>
static void dots(Matrix<W> m, int64_t row, int64_t in, const Input<W>* const* x, int64_t first, Put put) {
    const W* weight = m.weight + row * in;
    vec sums[R][B] = {};
    for (int64_t i = 0; i < in; i += Dot<W>::STEP) {
        decltype(Dot<W>::weights(weight)) w[R];
        for (int r = 0; r < R; r++) {
            w[r] = Dot<W>::weights(weight + r * in + i);
            // The next R rows, asked for while these are summed: without it, half of the memory's speed is lost.
            __builtin_prefetch(weight + (r + R) * in + i);
        }
        for (int b = 0; b < B; b++) {
            auto xb = Dot<W>::inputs(x[first + b] + i);
            for (int r = 0; r < R; r++) sums[r][b] = Dot<W>::add(sums[r][b], w[r], xb);
        }
    }
    for (int r = 0; r < R; r++)
        for (int b = 0; b < B; b++) put(first + b, row + r, sum(sums[r][b]) * (m.scale ? m.scale[row + r] : 1));
}

// This thread's share of the rows of every product with `count` of them.
static void my_rows(int64_t count, int64_t* begin, int64_t* end) {
    int64_t block = count % TILE ? ROWS : TILE, blocks = count / block, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    *begin = blocks * thread / threads * block, *end = blocks * (thread + 1) / threads * block;
}

#ifdef __AMX_BF16__
// The matrix unit of newer Intel processors: tile registers of 16 rows of 64 bytes. A program has to ask for them once.
static const bool matrix_unit = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
constexpr int MATRIX_UNIT_FROM = 3;  // with fewer tokens, `dots` is as quick

struct TileShapes {  // as the processor reads it: three tiles of 16 rows of 64 bytes
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64};
    uint8_t rows[16] = {TILE, TILE, TILE};
};
struct TileSetup {  // around a thread's use of tiles
    TileSetup() { const TileShapes shapes; if (matrix_unit) _tile_loadconfig(&shapes); }
    ~TileSetup() { if (matrix_unit) _tile_release(); }
};

// As `product`, for up to 16 tokens in the time of one: 16 rows of the matrix times 16 tokens a tile.
template <class Put>
static void tile_product(Matrix<bf16> m, int64_t out, int64_t in, const Inputs<bf16>& x, Put put) {
    const int64_t tokens = x.size(), groups = (tokens + TILE - 1) / TILE;
    // The unit wants pairs of inputs of all tokens side by side: packed[group][pair][token].
    std::vector<uint32_t> packed(groups * in / 2 * TILE);
    for (int64_t n = 0; n < tokens; n++)
        for (int64_t pair = 0; pair < in / 2; pair++)
            packed[(n / TILE * in / 2 + pair) * TILE + n % TILE] = read<uint32_t>(x[n] + 2 * pair);
    int64_t begin, end;
    my_rows(out, &begin, &end);
    for (int64_t row = begin; row < end; row += TILE) {
        const bf16* weight = m.weight + row * in;
        for (int64_t group = 0; group < groups; group++) {
            _tile_zero(0);
            for (int64_t i = 0; i < in; i += 2 * TILE) {
                _tile_loadd(1, weight + i, in * sizeof(bf16));
                _tile_loadd(2, &packed[(group * in + i) / 2 * TILE], TILE * sizeof(uint32_t));
                _tile_dpbf16ps(0, 1, 2);
                if (group == 0)
                    for (int r = 0; r < TILE; r++) __builtin_prefetch(weight + (TILE + r) * in + i);
            }
            float sums[TILE][TILE];
            _tile_stored(0, sums, TILE * sizeof(float));
            for (int64_t n = group * TILE; n < std::min(tokens, (group + 1) * TILE); n++)
                for (int r = 0; r < TILE; r++) put(n, row + r, sums[r][n % TILE]);
        }
    }
}
#else
constexpr bool matrix_unit = false;
struct TileSetup { ~TileSetup() {} };  // nothing to do
#endif

// This thread's rows of the product of a matrix `[out, in]` and the vectors `x`: put(n, o, value) for each.
template <class W, class Put>
static void product(Matrix<W> m, int64_t out, int64_t in, const Inputs<W>& x, Put put) {
#ifdef __AMX_BF16__
    if constexpr (std::is_same_v<W, bf16>)
        if (matrix_unit && x.size() >= MATRIX_UNIT_FROM && out % TILE == 0) return tile_product(m, out, in, x, put);
#endif
    int64_t begin, end, tokens = x.size();
    my_rows(out, &begin, &end);
    for (int64_t row = begin; row < end; row += ROWS) {
        int64_t n = 0;
        for (; n + TOKENS <= tokens; n += TOKENS) dots<ROWS, TOKENS>(m, row, in, x.data(), n, put);
        for (; n + 2 <= tokens; n += 2) dots<ROWS, 2>(m, row, in, x.data(), n, put);
        for (; n < tokens; n++) dots<ROWS, 1>(m, row, in, x.data(), n, put);
    }
}
