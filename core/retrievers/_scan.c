/* Exact search on a CPU: the loops in it for which Python and torch take several passes.
 *
 * compare: one query with every row, each read from memory once.
 * keep_best, finish: the best scores of every query, from tiles that arrive one by one.
 * search: the same from the rows themselves, where a product of int16 shows which few of them must be looked at.
 *
 * Arrays come as buffers that lie in one piece, float32 unless said otherwise; the caller sees to their sizes, which are
 * checked against each other only. The lock of the interpreter is released meanwhile.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef SOURCE
#define SOURCE 0 /* the checksum of this file, see core/loops.py */
#endif

typedef Py_ssize_t size;
typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef float half __attribute__((vector_size(16), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define RARE static __attribute__((noinline, cold))

/* One body, compiled twice; which one runs is decided when the module is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__)
#define PER_PROCESSOR __attribute__((target_clones("fma", "default")))
#else
#define PER_PROCESSOR
#endif

enum metric { DOT, COSINE, EUCLIDEAN };
enum { LANES = 8, STREAMS = 4 };

INLINE float sum(const lanes *v)
{
    half h = ((const half *)v)[0] + ((const half *)v)[1];
    return (h[0] + h[2]) + (h[1] + h[3]);
}

/* The cosine where squares leave the range of float32, times the length of the query. */
RARE float careful_cosine(const float *row, const float *query, size dim)
{
    double product = 0, square = 0;
    for (size j = 0; j < dim; j++) {
        product += (double)row[j] * query[j];
        square += (double)row[j] * row[j];
    }
    return square > 0 ? (float)(product / sqrt(square)) : 0;
}

/* Scores of `count` rows, `step` numbers apart: inner product, cosine times the length of the query, or squared distance
 * negated. Of cosines `scale` receives what inner products are multiplied with, NaN where they leave the range of float32.
 */
INLINE void compare_some(
    const float *rows, size step, int count, const float *query, size dim, enum metric metric, float *out, float *scale,
    size out_step)
{
    lanes products[STREAMS] __attribute__((aligned(32))), squares[STREAMS] __attribute__((aligned(32)));
    size j = 0;
#pragma GCC unroll 4
    for (int c = 0; c < count; c++)
        products[c] = squares[c] = (lanes){0};
#pragma GCC unroll 2
    for (; j + LANES <= dim; j += LANES) {
        lanes q = *(const lanes *)(query + j);
#pragma GCC unroll 4
        for (int c = 0; c < count; c++) {
            lanes x = *(const lanes *)(rows + c * step + j);
            if (metric == EUCLIDEAN) {
                x -= q;
                squares[c] += x * x;
            } else {
                products[c] += x * q;
                if (metric == COSINE)
                    squares[c] += x * x;
            }
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < count; c++) {
        const float *row = rows + c * step;
        float product = sum(&products[c]), square = sum(&squares[c]);
        for (size i = j; i < dim; i++) {
            float offset = metric == EUCLIDEAN ? row[i] - query[i] : row[i];
            product += row[i] * query[i];
            square += offset * offset;
        }
        if (metric == COSINE) {
            const int fits = square > 1e-30f && square < 1e30f;
            const float inverse = fits ? 1 / sqrtf(square) : NAN;
            product = fits ? product * inverse : careful_cosine(row, query, dim);
            if (scale)
                scale[c * out_step] = inverse;
        }
        out[c * out_step] = metric == EUCLIDEAN ? -square : product;
    }
}

/* Rows are read at several places at once: a processor fetches ahead at each of them. */
INLINE void compare_all(
    const float *rows, size n, const float *query, size dim, enum metric metric, float *out, float *scale)
{
    size part = n / STREAMS, i = 0;
    for (; i < part; i++)
        compare_some(rows + i * dim, part * dim, STREAMS, query, dim, metric, out + i, scale ? scale + i : NULL, part);
    for (i = part * STREAMS; i < n; i++)
        compare_some(rows + i * dim, 0, 1, query, dim, metric, out + i, scale ? scale + i : NULL, 0);
}

PER_PROCESSOR
static void compare_rows(
    const float *rows, size n, const float *query, size dim, enum metric metric, float *out, float *scale)
{
    switch (metric) {
    case DOT:
        compare_all(rows, n, query, dim, DOT, out, NULL);
        break;
    case COSINE:
        compare_all(rows, n, query, dim, COSINE, out, scale);
        break;
    case EUCLIDEAN:
        compare_all(rows, n, query, dim, EUCLIDEAN, out, NULL);
    }
}

static PyObject *compare(PyObject *self, PyObject *args)
{
    Py_buffer rows, query, out, scale = {0};
    PyObject *wanted = Py_None;
    int metric;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*i|O", &rows, &query, &out, &metric, &wanted))
        return NULL;
    size n = out.len / (size)sizeof(float), dim = query.len / (size)sizeof(float);
    int known = wanted == Py_None || PyObject_GetBuffer(wanted, &scale, PyBUF_WRITABLE) == 0;
    int fits = known && rows.len == n * query.len && metric >= DOT && metric <= EUCLIDEAN &&
               (!scale.buf || scale.len == out.len);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        compare_rows(rows.buf, n, query.buf, dim, (enum metric)metric, out.buf, scale.buf);
        Py_END_ALLOW_THREADS
    } else if (known)
        PyErr_Format(
            PyExc_ValueError, "rows have %zd bytes, query %zd, out %zd, scale %zd", rows.len, query.len, out.len, scale.len);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&query);
    PyBuffer_Release(&out);
    PyBuffer_Release(&scale);
    return fits ? Py_NewRef(Py_None) : NULL;
}

/* -- the best scores of every query, in a line of twice as many places as are asked for ------------------------------- */

/* Of two scores the worse; on equal scores the later row. */
INLINE int worse(float a, int64_t row_a, float b, int64_t row_b)
{
    return a < b || (a == b && row_a > row_b);
}

/* Brings the best k of n scores to the front, in no order, the worst of them to place k - 1 (Hoare's selection). */
static void select_best(float *scores, int64_t *index, size n, size k)
{
    for (size low = 0, high = n - 1; low < high;) {
        float pivot = scores[(low + high) / 2];
        int64_t pivot_row = index[(low + high) / 2];
        size i = low, j = high;
        while (i <= j) {
            while (worse(pivot, pivot_row, scores[i], index[i]))
                i++;
            while (worse(scores[j], index[j], pivot, pivot_row))
                j--;
            if (i <= j) {
                float score = scores[i];
                int64_t row = index[i];
                scores[i] = scores[j];
                index[i++] = index[j];
                scores[j] = score;
                index[j--] = row;
            }
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            return;
    }
}

/* Whether one of `count` scores is above what its query must exceed; all are where that is NaN. */
INLINE int any_above(const float *scores, const float *least, size count, float bias, float scale)
{
    int found = 0;
    for (size j = 0; j < count; j++)
        found |= !((scores[j] + bias) * scale <= least[j]);
    return found;
}

/* Notes a score, unless it is not among the best k. */
INLINE void note(float score, int64_t row, float *scores, int64_t *index, float *least, int64_t *taken, size k)
{
    if (score != score)
        score = -INFINITY; /* of infinite products; comes last */
    if (score <= *least)
        return;
    scores[*taken] = score;
    index[*taken] = row;
    if (++*taken == 2 * k) {
        select_best(scores, index, 2 * k, k);
        *least = scores[k - 1];
        *taken = k;
    }
}

enum { GROUP = 64 };

/* `tile` is (n, q), `scores` and `index` (q, 2 k) with `taken` (q,) places in use; `least` (q,) is the worst of the best k
 * known, or NaN. Rows come in rising order, so that a score equal to it is not among the best. */
PER_PROCESSOR
static void keep_best_of(
    const float *tile, size n, size q, const float *bias, const float *scale, float *scores, int64_t *index, float *least,
    int64_t *taken, size k, int64_t start)
{
    for (size i = 0; i < n; i++, tile += q) {
        float b = bias ? bias[i] : 0, s = scale ? scale[i] : 1;
        for (size from = 0; from < q; from += GROUP) {
            size count = q - from < GROUP ? q - from : GROUP;
            int found = count == GROUP ? any_above(tile + from, least + from, GROUP, b, s)
                                       : any_above(tile + from, least + from, count, b, s);
            for (size j = from; found && j < from + count; j++)
                note((tile[j] + b) * s, start + i, scores + 2 * k * j, index + 2 * k * j, least + j, taken + j, k);
        }
    }
}

/* The same for one query, whose scores lie side by side and need no bias. */
PER_PROCESSOR
static void keep_best_of_one(
    const float *tile, size n, const float *scale, float *scores, int64_t *index, float *least, int64_t *taken, size k,
    int64_t start)
{
    float scaled[GROUP];
    for (size from = 0; from < n; from += GROUP) {
        const size count = n - from < GROUP ? n - from : GROUP;
        const float *group = tile + from;
        int found = 0;
        if (scale) {
            for (size i = 0; i < count; i++)
                scaled[i] = group[i] * scale[from + i];
            group = scaled;
        }
        for (size i = 0; i < count; i++)
            found |= !(group[i] <= *least);
        for (size i = 0; found && i < count; i++)
            note(group[i], start + from + i, scores, index, least, taken, k);
    }
}

static PyObject *keep_best(PyObject *self, PyObject *args)
{
    Py_buffer tile, bias, scale, scores, index, least, taken;
    Py_ssize_t start;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*z*z*w*w*w*w*n", &tile, &bias, &scale, &scores, &index, &least, &taken, &start))
        return NULL;
    size number = sizeof(float), q = least.len / number;
    size n = q ? tile.len / least.len : 0, k = q ? scores.len / least.len / 2 : 0;
    int fits = tile.len == n * least.len && scores.len == 2 * k * least.len && index.len == 2 * scores.len &&
               taken.len == 2 * least.len && (!bias.buf || bias.len == n * number) &&
               (!scale.buf || scale.len == n * number);
    if (fits && k) {
        Py_BEGIN_ALLOW_THREADS
        if (q == 1 && !bias.buf)
            keep_best_of_one(tile.buf, n, scale.buf, scores.buf, index.buf, least.buf, taken.buf, k, start);
        else
            keep_best_of(tile.buf, n, q, bias.buf, scale.buf, scores.buf, index.buf, least.buf, taken.buf, k, start);
        Py_END_ALLOW_THREADS
    } else if (!fits)
        PyErr_Format(
            PyExc_ValueError, "tile has %zd bytes, scores %zd, index %zd, least %zd, taken %zd", tile.len, scores.len,
            index.len, least.len, taken.len);
    PyBuffer_Release(&tile);
    PyBuffer_Release(&bias);
    PyBuffer_Release(&scale);
    PyBuffer_Release(&scores);
    PyBuffer_Release(&index);
    PyBuffer_Release(&least);
    PyBuffer_Release(&taken);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyObject *finish(PyObject *self, PyObject *args)
{
    Py_buffer scores, index, taken;
    (void)self;
    if (!PyArg_ParseTuple(args, "w*w*y*", &scores, &index, &taken))
        return NULL;
    size q = taken.len / (size)sizeof(int64_t), k = q ? scores.len / (size)sizeof(float) / q / 2 : 0;
    int fits = scores.len == 2 * k * q * (size)sizeof(float) && index.len == 2 * scores.len;
    if (fits) {
        const int64_t *count = taken.buf;
        for (size j = 0; j < q; j++)
            if (count[j] > k)
                select_best((float *)scores.buf + 2 * k * j, (int64_t *)index.buf + 2 * k * j, count[j], k);
    } else
        PyErr_Format(PyExc_ValueError, "scores has %zd bytes, index %zd, taken %zd", scores.len, index.len, taken.len);
    PyBuffer_Release(&scores);
    PyBuffer_Release(&index);
    PyBuffer_Release(&taken);
    return fits ? Py_NewRef(Py_None) : NULL;
}

/* -- many queries: a product of int16 says which rows can be among the best, and only these are compared in float32 ------ */

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_SHORTLIST 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

enum { PANEL = 16, ROWS = 6, BLOCK = 16 * ROWS, STEP = 16 };

/* A row scaled to length `unit` in int16, followed by zeros; its length, NaN where squares leave the range of float32. */
AVX2 static float narrow(const float *row, size dim, float unit, int16_t *out, size padded)
{
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    size j = 0;
    for (; j + STEP <= dim; j += STEP)
        for (int h = 0; h < 2; h++) {
            __m256 x = _mm256_loadu_ps(row + j + 8 * h);
            sums[h] = _mm256_add_ps(sums[h], _mm256_mul_ps(x, x));
        }
    float parts[8], square = 0;
    _mm256_storeu_ps(parts, _mm256_add_ps(sums[0], sums[1]));
    for (int c = 0; c < 8; c++)
        square += parts[c];
    for (size i = j; i < dim; i++)
        square += row[i] * row[i];
    const float times = square > 1e-30f && square < 1e30f ? unit / sqrtf(square) : 0;
    const __m256 factor = _mm256_set1_ps(times);
    for (j = 0; j + STEP <= dim; j += STEP) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + j), factor));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + j + 8), factor));
        __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(out + j), both);
    }
    for (; j < padded; j++)
        out[j] = j < dim ? (int16_t)lrintf(row[j] * times) : 0;
    return times > 0 ? unit / times : NAN;
}

/* Inner products of ROWS narrow rows with a panel of PANEL narrow directions, which lie by pairs of places. Not inlined, so
 * that all sums stay in registers. */
AVX2 static __attribute__((noinline)) void multiply(
    const int16_t *rows, size padded, const int16_t *panel, __m256i products[ROWS][2])
{
    __m256i sums[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
        sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (size j = 0; j < padded; j += 2, panel += 2 * PANEL) {
        const __m256i first = _mm256_loadu_si256((const __m256i *)panel);
        const __m256i second = _mm256_loadu_si256((const __m256i *)(panel + PANEL));
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, rows + r * padded + j, sizeof pair);
            const __m256i x = _mm256_set1_epi32(pair);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(x, first));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(x, second));
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
        products[r][0] = sums[r][0];
        products[r][1] = sums[r][1];
    }
}

typedef struct {
    const float *rows, *directions, *reach, *slack, *bias, *scale;
    const int16_t *panels;
    float *scores, *least;
    int64_t *index, *taken;
    size n, q, dim, padded, k;
    int64_t start;
    float unit;
} Search;

/* Scores of one row, `products` with the PANEL directions from `from` on, are at most
 * ((product * reach + slack) * length + bias) * scale; where that is above the least, the score itself is calculated. */
AVX2 static inline __attribute__((always_inline)) size shortlist(
    const Search *s, const __m256i products[2], size row, size from, float length)
{
    const float bias = s->bias ? s->bias[row] : 0, scale = s->scale ? s->scale[row] : 1;
    size found = 0;
    for (int h = 0; h < 2; h++) {
        const size at = from + 8 * h;
        __m256 most = _mm256_mul_ps(_mm256_cvtepi32_ps(products[h]), _mm256_loadu_ps(s->reach + at));
        most = _mm256_mul_ps(_mm256_add_ps(most, _mm256_loadu_ps(s->slack + at)), _mm256_set1_ps(length));
        most = _mm256_mul_ps(
            _mm256_add_ps(most, _mm256_set1_ps(bias + 1e-6f * fabsf(bias))), _mm256_set1_ps(scale));
        /* not less or equal: true also where a bound is not known */
        int above = _mm256_movemask_ps(_mm256_cmp_ps(most, _mm256_loadu_ps(s->least + at), _CMP_NLE_UQ));
        for (; above; above &= above - 1) {
            const size j = at + __builtin_ctz(above);
            float product;
            if (j >= s->q)
                break;
            compare_some(s->rows + row * s->dim, 0, 1, s->directions + j * s->dim, s->dim, DOT, &product, NULL, 0);
            note((product + bias) * scale, s->start + row, s->scores + 2 * s->k * j, s->index + 2 * s->k * j,
                 s->least + j, s->taken + j, s->k);
            found++;
        }
    }
    return found;
}

/* How many scores were calculated; `room` is for BLOCK narrow rows. */
AVX2 static size search_rows(const Search *s, int16_t *room)
{
    float lengths[BLOCK];
    size found = 0;
    for (size block = 0; block < s->n; block += BLOCK) {
        const size count = s->n - block < BLOCK ? s->n - block : BLOCK;
        for (size i = 0; i < count; i++)
            lengths[i] = narrow(s->rows + (block + i) * s->dim, s->dim, s->unit, room + i * s->padded, s->padded);
        for (size from = 0; from < s->q; from += PANEL)
            for (size i = 0; i < count; i += ROWS) {
                __m256i products[ROWS][2];
                multiply(room + i * s->padded, s->padded, s->panels + from * s->padded, products);
                for (size r = 0; r < ROWS && i + r < count; r++)
                    found += shortlist(s, products[r], block + i + r, from, lengths[i + r]);
            }
    }
    return found;
}

static PyObject *search(PyObject *self, PyObject *args)
{
    Py_buffer given[11];
    float unit;
    Py_ssize_t start;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y*y*y*y*y*z*z*w*w*w*w*nf", &given[0], &given[1], &given[2], &given[3], &given[4], &given[5], &given[6],
            &given[7], &given[8], &given[9], &given[10], &start, &unit))
        return NULL;
    const size number = sizeof(float), q = given[10].len / (size)sizeof(int64_t), dim = q ? given[1].len / q / number : 0;
    const size n = dim ? given[0].len / dim / number : 0, wide = (q + PANEL - 1) / PANEL * PANEL;
    const size padded = (dim + STEP - 1) / STEP * STEP, k = q ? given[7].len / q / number / 2 : 0;
    const int fits = given[0].len == n * dim * number && given[1].len == q * dim * number &&
                     given[2].len == wide * padded * (size)sizeof(int16_t) && given[3].len == wide * number &&
                     given[4].len == wide * number && (!given[5].buf || given[5].len == n * number) &&
                     (!given[6].buf || given[6].len == n * number) && given[7].len == 2 * k * q * number &&
                     given[8].len == 2 * given[7].len && given[9].len == wide * number && k > 0;
    const Search s = {
        .rows = given[0].buf, .directions = given[1].buf, .panels = given[2].buf, .reach = given[3].buf,
        .slack = given[4].buf, .bias = given[5].buf, .scale = given[6].buf, .scores = given[7].buf,
        .index = given[8].buf, .least = given[9].buf, .taken = given[10].buf, .n = n, .q = q, .dim = dim,
        .padded = padded, .k = k, .start = start, .unit = unit,
    };
    int16_t *room = fits ? PyMem_RawCalloc(BLOCK * padded, sizeof(int16_t)) : NULL;
    size found = 0;
    if (room) {
        Py_BEGIN_ALLOW_THREADS
        found = search_rows(&s, room);
        Py_END_ALLOW_THREADS
    } else if (fits)
        PyErr_NoMemory();
    else
        PyErr_Format(
            PyExc_ValueError, "rows have %zd bytes, directions %zd, panels %zd, scores %zd", given[0].len, given[1].len,
            given[2].len, given[7].len);
    PyMem_RawFree(room);
    for (int i = 0; i < 11; i++)
        PyBuffer_Release(&given[i]);
    return room ? PyLong_FromSsize_t(found) : NULL;
}
#endif

static PyMethodDef methods[] = {
    {"compare", compare, METH_VARARGS, "compare(rows, query, out, metric, scale=None): one query with every row."},
    {"keep_best", keep_best, METH_VARARGS,
     "keep_best(tile, bias, scale, scores, index, least, taken, start): notes the best of a tile of scores."},
#ifdef HAS_SHORTLIST
    {"search", search, METH_VARARGS,
     "search(rows, directions, panels, reach, slack, bias, scale, scores, index, least, taken, start, unit): notes the "
     "best of some rows, and returns how many scores had to be calculated."},
#endif
    {"finish", finish, METH_VARARGS, "finish(scores, index, taken): brings the best of every query to the front."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_scan", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__scan(void)
{
    PyObject *made = PyModule_Create(&module);
    int shortlists = 0;
#ifdef HAS_SHORTLIST
    __builtin_cpu_init();
    shortlists = __builtin_cpu_supports("avx2") != 0;
#endif
    if (made && (PyModule_AddIntConstant(made, "shortlists", shortlists) < 0 ||
                 PyModule_AddObject(made, "source", PyLong_FromUnsignedLong(SOURCE)) < 0))
        Py_CLEAR(made);
    return made;
}
