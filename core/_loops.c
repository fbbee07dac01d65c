/* The inner loops of a memory: what a batch costs once it is decided who stays.

   Built where there is a C compiler (see setup.py). Without it the same happens in Python, with the same outcome. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#ifndef SOURCE
#define SOURCE 0 /* the checksum of this file, by which loops.py knows a module that was built from another one */
#endif

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address, 1)
#define PREFETCH_READ(address) __builtin_prefetch(address, 0)
#else
#define PREFETCH(address) (void)(address)
#define PREFETCH_READ(address) (void)(address)
#endif

/* One body, compiled twice; which one runs is decided when the module is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__)
#define PER_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define PER_PROCESSOR
#endif

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define HASH(number) ((size_t)(((uint64_t)(number) * 0x9E3779B97F4A7C15u) >> 32))
#define AHEAD 2      /* rows that are fetched into the cache before their turn comes */
#define FETCHED 4096 /* bytes of a row that are, at most */
#define LINE 64      /* bytes that a processor reads and writes at a time */

/* One column: rows of `size` bytes in two places. `digit` is the size of a floating-point number in it, or 0. */
typedef struct {
    char *to;
    const char *from;
    Py_ssize_t size;
    int digit;
    int past;          /* whether rows are written past the cache */
    uint64_t exponent; /* the bits of a number that is infinite or NaN */
} Lane;

typedef struct {
    Py_buffer view;
    Py_ssize_t length;
} Array;

/* Opens buffers of contiguous 8-byte numbers, those from `read_only` on for writing. Returns how many are open: fewer
   than `n` after an error. */
static int
open_arrays(PyObject *const *objects, Array *arrays, int n, int read_only)
{
    for (int i = 0; i < n; i++) {
        if (PyObject_GetBuffer(objects[i], &arrays[i].view, i < read_only ? PyBUF_SIMPLE : PyBUF_WRITABLE) < 0) {
            return i;
        }
        if (arrays[i].view.itemsize != 8) {
            PyErr_SetString(PyExc_TypeError, "expected arrays of int64 or float64");
            PyBuffer_Release(&arrays[i].view);
            return i;
        }
        arrays[i].length = arrays[i].view.len / 8;
    }
    return n;
}

static void
close_arrays(Array *arrays, int n)
{
    while (n-- > 0) {
        PyBuffer_Release(&arrays[n].view);
    }
}

#define FINITE(TYPE)                                                             \
    {                                                                            \
        const TYPE *digits = (const TYPE *)row, mask = (TYPE)lane->exponent;     \
        int wrong = 0;                                                           \
        for (Py_ssize_t i = 0; i < lane->size / (Py_ssize_t)sizeof(TYPE); i++) { \
            wrong |= (digits[i] & mask) == mask;                                 \
        }                                                                        \
        return !wrong;                                                           \
    }

PER_PROCESSOR
static int
all_finite(const Lane *lane, const char *row)
{
    switch (lane->digit) {
    case 2:
        FINITE(uint16_t)
    case 4:
        FINITE(uint32_t)
    case 8:
        FINITE(uint64_t)
    }
    return 1;
}

/* The first of the sorted `values` that is at least `bound`. */
static Py_ssize_t
first_from(const int64_t *values, Py_ssize_t n, int64_t bound)
{
    Py_ssize_t low = 0;
    while (low < n) {
        Py_ssize_t middle = low + (n - low) / 2;
        if (values[middle] < bound) {
            low = middle + 1;
        } else {
            n = middle;
        }
    }
    return low;
}

/* Copies a row to its slot. Whole lines that go past the cache need not be read from memory first, which takes half of
   the time. */
static void
put_row(const Lane *lane, int64_t slot, int64_t row)
{
    char *to = lane->to + slot * lane->size;
    const char *from = lane->from + row * lane->size;
    Py_ssize_t left = lane->size;
#if defined(__SSE2__)
    if (lane->past) {
        const Py_ssize_t head = (LINE - (Py_ssize_t)((uintptr_t)to % LINE)) % LINE;
        memcpy(to, from, (size_t)head);
        for (to += head, from += head, left -= head; left >= LINE; to += LINE, from += LINE, left -= LINE) {
            __m128i parts[4];
            for (int i = 0; i < 4; i++) {
                parts[i] = _mm_loadu_si128((const __m128i *)from + i);
            }
            for (int i = 0; i < 4; i++) {
                _mm_stream_si128((__m128i *)to + i, parts[i]);
            }
        }
    }
#endif
    memcpy(to, from, (size_t)left);
}

/* Lets what went past the cache be seen before anything that is written later. */
static void
settle_rows(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* What a lane of the table says: (dtype, shape of a row, address, bytes of a row, whether rows are written past the
   cache, bytes of a floating-point number in it or 0, its exponent bits). */
static int
read_lane(PyObject *given, Lane *lane, PyObject **dtype, PyObject **shape)
{
    unsigned long long to, exponent;
    if (!PyTuple_Check(given) ||
        !PyArg_ParseTuple(given, "OO!KnpiK", dtype, &PyTuple_Type, shape, &to, &lane->size, &lane->past, &lane->digit,
                          &exponent)) {
        PyErr_SetString(PyExc_TypeError, "expected lanes of columns");
        return -1;
    }
    lane->to = (char *)(uintptr_t)to;
    lane->exponent = exponent;
    return 0;
}

/* Lanes from those of the table and the addresses of the columns of a batch; to be freed. */
static Lane *
join_lanes(PyObject *columns, PyObject *sources, int *n)
{
    if (!PyList_Check(columns) || !PyList_Check(sources) || PyList_GET_SIZE(columns) != PyList_GET_SIZE(sources)) {
        PyErr_SetString(PyExc_TypeError, "expected lists of as many columns as addresses");
        return NULL;
    }
    *n = (int)PyList_GET_SIZE(columns);
    Lane *lanes = PyMem_Calloc((size_t)*n + 1, sizeof(Lane));
    if (lanes == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int i = 0; i < *n; i++) {
        PyObject *dtype, *shape;
        if (read_lane(PyList_GET_ITEM(columns, i), &lanes[i], &dtype, &shape) < 0) {
            break;
        }
        lanes[i].from = PyLong_AsVoidPtr(PyList_GET_ITEM(sources, i));
    }
    if (PyErr_Occurred()) {
        PyMem_Free(lanes);
        return NULL;
    }
    return lanes;
}

/* The lanes in bytes, as from open_batch; -1 after an error. */
static int
open_lanes(PyObject *bytes, const Lane **lanes)
{
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) % (Py_ssize_t)sizeof(Lane)) {
        PyErr_SetString(PyExc_TypeError, "expected lanes as from open_batch");
        return -1;
    }
    *lanes = (const Lane *)PyBytes_AS_STRING(bytes);
    return (int)(PyBytes_GET_SIZE(bytes) / (Py_ssize_t)sizeof(Lane));
}

/* Fetches a row of a batch into the cache, or the slot it goes to. */
static void
fetch_row(const Lane *lanes, int n_lanes, int64_t row)
{
    for (int j = 0; j < n_lanes; j++) {
        const char *from = lanes[j].from + row * lanes[j].size;
        for (Py_ssize_t at = 0; at < lanes[j].size && at < FETCHED; at += LINE) {
            PREFETCH_READ(from + at);
        }
    }
}

static void
fetch_slot(const Lane *lanes, int n_lanes, int64_t slot)
{
    for (int j = 0; j < n_lanes; j++) {
        const char *to = lanes[j].to + slot * lanes[j].size;
        for (Py_ssize_t at = 0; at < lanes[j].size && at < FETCHED && !lanes[j].past; at += LINE) {
            PREFETCH(to + at);
        }
    }
}

/* Whether the given rows of a batch hold finite numbers only; each is fetched while another is looked at. */
static int
rows_finite(const Lane *lanes, int n_lanes, const int64_t *rows, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            fetch_row(lanes, n_lanes, rows[i + AHEAD]);
        }
        for (int j = 0; j < n_lanes; j++) {
            if (!all_finite(&lanes[j], lanes[j].from + rows[i] * lanes[j].size)) {
                return 0;
            }
        }
    }
    return 1;
}

/* Copies rows of a batch to slots, in order. */
static void
copy_rows(const Lane *lanes, int n_lanes, const int64_t *rows, const int64_t *slots, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            fetch_slot(lanes, n_lanes, slots[i + AHEAD]);
        }
        for (int j = 0; j < n_lanes; j++) {
            put_row(&lanes[j], slots[i], rows[i]);
        }
    }
    settle_rows();
}

/* Attributes and methods of tensors, and what makes one. */
static PyObject *name_lane, *name_dtype, *name_shape, *name_requires_grad, *name_is_cpu, *name_is_contiguous,
    *name_is_neg, *name_data_ptr, *tensor_type, *new_array, *whole_numbers, *whole_type, *as_tensor;

/* 1 if the attribute (or what the method returns) is `expected`, 0 if not or after an error. */
static int
is(PyObject *object, PyObject *name, PyObject *expected, int call)
{
    PyObject *found = call ? PyObject_CallMethodNoArgs(object, name) : PyObject_GetAttr(object, name);
    const int same = found == expected;
    Py_XDECREF(found);
    return same;
}

/* The rows of a tensor with rows of the given shape; -1 if they have another. */
static Py_ssize_t
rows_of(PyObject *tensor, PyObject *row)
{
    PyObject *shape = PyObject_GetAttr(tensor, name_shape);
    Py_ssize_t n = -1;
    if (shape != NULL && PyTuple_Check(shape) && PyTuple_GET_SIZE(shape) == PyTuple_GET_SIZE(row) + 1) {
        n = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, 0));
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(row) && n >= 0; i++) {
            if (PyObject_RichCompareBool(PyTuple_GET_ITEM(shape, i + 1), PyTuple_GET_ITEM(row, i), Py_EQ) != 1) {
                n = -1;
            }
        }
    }
    Py_XDECREF(shape);
    return n;
}

/* Writes where the rows of a batch lie and where they go, one lane per column. Returns the number of rows; -1 if they
   cannot be copied from there as they are: a column is missing, of another type, dtype, shape or layout, or needs a
   gradient. Then, too, there may be an error, and the caller takes a closer look. */
static Py_ssize_t
open_columns(PyObject *batch, PyObject *columns, Lane *lanes)
{
    PyObject *name, *column;
    Py_ssize_t n = -1, at = 0;
    for (Lane *lane = lanes; PyDict_Next(columns, &at, &name, &column); lane++) {
        PyObject *values = PyDict_GetItemWithError(batch, name), *dtype, *shape;
        if (values == NULL || (PyObject *)Py_TYPE(values) != tensor_type) {
            return -1;
        }
        PyObject *given = PyObject_GetAttr(column, name_lane), *address = NULL;
        int fits = given != NULL && PyTuple_Check(given) && read_lane(given, lane, &dtype, &shape) == 0 &&
                   is(values, name_dtype, dtype, 0);
        if (fits) {
            const Py_ssize_t rows = rows_of(values, shape);
            /* whole numbers have no gradient, and are not negated where they lie */
            fits = rows >= 0 && (n < 0 || rows == n) && is(values, name_is_cpu, Py_True, 0) &&
                   is(values, name_is_contiguous, Py_True, 1) &&
                   (lane->digit == 0 ||
                    (is(values, name_requires_grad, Py_False, 0) && is(values, name_is_neg, Py_False, 1))) &&
                   (address = PyObject_CallMethodNoArgs(values, name_data_ptr)) != NULL;
            n = rows;
        }
        if (fits) {
            lane->from = PyLong_AsVoidPtr(address);
        }
        Py_XDECREF(address);
        Py_XDECREF(given);
        if (!fits) {
            return -1;
        }
    }
    return n;
}

PyDoc_STRVAR(open_batch_doc,
"open_batch(batch, columns) -> (int, bytes) | None\n\n"
"Where the rows of a batch lie, if they can be copied from there as they are.\n\n"
"Args:\n"
"    batch: a dict of tensors.\n"
"    columns: a dict of columns with an attribute `lane`: None, or (dtype, shape of a row, address, bytes of a row,\n"
"        whether rows are written past the cache, bytes of a floating-point number in it or 0, its exponent bits).\n\n"
"Returns:\n"
"    The number of rows, and where they lie and go; None if a column is missing, of another type, dtype, shape or\n"
"    layout, or needs a gradient.");

static PyObject *
open_batch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 2 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "open_batch expects a batch and a dict of columns");
        return NULL;
    }
    const Py_ssize_t n_lanes = PyDict_GET_SIZE(args[1]);
    if (!PyDict_CheckExact(args[0]) || PyDict_GET_SIZE(args[0]) != n_lanes) {
        Py_RETURN_NONE;
    }
    PyObject *lanes = PyBytes_FromStringAndSize(NULL, n_lanes * (Py_ssize_t)sizeof(Lane));
    if (lanes == NULL) {
        return NULL;
    }
    const Py_ssize_t n = open_columns(args[0], args[1], (Lane *)PyBytes_AS_STRING(lanes));
    if (n < 0) {
        Py_DECREF(lanes);
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return Py_BuildValue("nN", n, lanes);
}

/* A tensor of n slots that are -1, where it lies, and the array behind it; -1 after an error. */
static int
new_slots(Py_ssize_t n, PyObject **tensor, PyObject **array, Py_buffer *view)
{
    PyObject *const length = PyLong_FromSsize_t(n), *const empty[2] = {length, whole_numbers};
    *array = length == NULL ? NULL : PyObject_Vectorcall(new_array, empty, 2, NULL);
    *tensor = *array == NULL ? NULL : PyObject_CallOneArg(as_tensor, *array);
    Py_XDECREF(length);
    if (*tensor == NULL || PyObject_GetBuffer(*array, view, PyBUF_WRITABLE) < 0) {
        Py_CLEAR(*tensor);
        Py_CLEAR(*array);
        return -1;
    }
    memset(view->buf, 0xff, (size_t)n * sizeof(int64_t));
    return 0;
}

/* What is known of the next rows of a stream, see intake_doc. */
typedef struct {
    PyObject_HEAD
    Array arrays[7]; /* rows, slots, keys, gone; ids, keys, ranks */
    int opened;
    int64_t stop;
    int64_t *taken; /* of rows of a batch that win: which of those known they are, which of the batch, and their slots */
} Intake;

PyDoc_STRVAR(intake_doc,
"Intake(winners, books, stop)\n\n"
"Enters in the books of a full store, and copies, what wins among the next rows of a stream.\n\n"
"Args:\n"
"    winners: of all that are known, positions in the stream (rising), the slots they take, their keys, and the\n"
"        positions at which they are driven out again.\n"
"    books: of every slot, the id, the key and the rank of its row; written.\n"
"    stop: the first position of which nothing is known.");

static PyObject *
intake_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *given[7];
    long long stop;
    if (!PyArg_ParseTuple(args, "(OOOO)(OOO)L", &given[0], &given[1], &given[2], &given[3], &given[4], &given[5],
                          &given[6], &stop)) {
        return NULL;
    }
    Intake *self = (Intake *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->stop = stop;
    if ((self->opened = open_arrays(given, self->arrays, 7, 4)) < 7) {
        goto failed;
    }
    const Py_ssize_t known = self->arrays[0].length, capacity = self->arrays[4].length;
    for (int i = 1; i < 7; i++) {
        if (self->arrays[i].length != (i < 4 ? known : capacity)) {
            PyErr_SetString(PyExc_ValueError, "expected arrays of the same length");
            goto failed;
        }
    }
    const int64_t *slots = self->arrays[1].view.buf;
    for (Py_ssize_t i = 0; i < known; i++) {
        if (slots[i] < 0 || slots[i] >= capacity) {
            PyErr_SetString(PyExc_IndexError, "expected slots of the store");
            goto failed;
        }
    }
    if ((self->taken = PyMem_Malloc((3 * (size_t)known + 1) * sizeof(int64_t))) == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static void
intake_free(Intake *self)
{
    close_arrays(self->arrays, self->opened);
    PyMem_Free(self->taken);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Looks up what is won by the rows of a batch from `first` on, of which `start` and `end` are the positions in the
   stream, and still stands at `end`. Returns how many. */
static Py_ssize_t
look_up(const Intake *self, int64_t start, int64_t end, int64_t first)
{
    const int64_t *rows = self->arrays[0].view.buf, *slots = self->arrays[1].view.buf, *gone = self->arrays[3].view.buf;
    const Py_ssize_t known = self->arrays[0].length;
    int64_t *which = self->taken, *taken = which + known, *places = taken + known;
    Py_ssize_t count = 0;
    for (Py_ssize_t i = first_from(rows, known, start); i < known && rows[i] < end; i++) {
        if (gone[i] >= end) {
            which[count] = i;
            taken[count] = rows[i] - start + first;
            places[count++] = slots[i];
        }
    }
    return count;
}

/* Fetches into the cache what the rows that win are written to. */
static void
fetch_books(const Intake *self, Py_ssize_t count)
{
    const int64_t *places = self->taken + 2 * self->arrays[0].length;
    for (Py_ssize_t i = 0; i < count; i++) {
        for (int j = 4; j < 7; j++) {
            PREFETCH((const int64_t *)self->arrays[j].view.buf + places[i]);
        }
    }
}

/* Enters what was looked up in the books, and copies it. `id` is that of the first row of the batch; a row of it whose
   slot is taken by a later one loses it. */
static void
take_in(Intake *self, const Lane *lanes, int n_lanes, Py_ssize_t count, int64_t id, int64_t *slot_of, Py_ssize_t n)
{
    const Py_ssize_t known = self->arrays[0].length;
    const int64_t *which = self->taken, *taken = which + known, *places = taken + known;
    const double *keys = self->arrays[2].view.buf;
    int64_t *ids = self->arrays[4].view.buf, *ranks = self->arrays[6].view.buf;
    double *held = self->arrays[5].view.buf;
    for (Py_ssize_t i = 0; i < count; i++) {
        const int64_t slot = places[i], before = ids[slot] - id;
        if (before >= 0 && before < n && slot_of[before] == slot) {
            slot_of[before] = -1;
        }
        ids[slot] = id + taken[i];
        held[slot] = keys[which[i]];
        ranks[slot] = -1;
        slot_of[taken[i]] = slot;
    }
    copy_rows(lanes, n_lanes, taken, places, count);
}

PyDoc_STRVAR(intake_add_doc,
"add(batch, columns, start, seen) -> (Tensor, int, int) | None\n\n"
"Takes in a batch.\n\n"
"Args:\n"
"    batch, columns: as for open_batch.\n"
"    start: position of the first row in the stream.\n"
"    seen: its id.\n\n"
"Returns:\n"
"    The slot of each row, or -1; how many rows there were, and how many were taken. None, and nothing is changed, if\n"
"    the batch cannot be copied as it is, is known of in part only, or one of the rows holds a number that is not finite.");

static PyObject *
intake_add(Intake *self, PyObject *const *args, Py_ssize_t n_args)
{
    Lane some[8], *lanes = some;
    PyObject *result = NULL, *array = NULL, *tensor = NULL;
    if (n_args != 4 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "add expects a batch, a dict of columns and two numbers");
        return NULL;
    }
    const int64_t start = (int64_t)PyFloat_AsDouble(args[2]), seen = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const Py_ssize_t n_lanes = PyDict_GET_SIZE(args[1]);
    if (!PyDict_CheckExact(args[0]) || PyDict_GET_SIZE(args[0]) != n_lanes) {
        Py_RETURN_NONE;
    }
    if (n_lanes > 8 && (lanes = PyMem_Malloc((size_t)n_lanes * sizeof(Lane))) == NULL) {
        return PyErr_NoMemory();
    }
    const Py_ssize_t n = open_columns(args[0], args[1], lanes);
    if (n < 0 || start + n > self->stop) {
        goto refuse;
    }
    const Py_ssize_t count = look_up(self, start, start + n, 0);
    const int64_t *taken = self->taken + self->arrays[0].length, *places = taken + self->arrays[0].length;
    for (Py_ssize_t i = 0; i < count && i < AHEAD; i++) {
        fetch_row(lanes, (int)n_lanes, taken[i]);
        fetch_slot(lanes, (int)n_lanes, places[i]);
    }
    fetch_books(self, count);
    Py_buffer view;
    if (new_slots(n, &tensor, &array, &view) < 0) {
        goto done;
    }
    const int good = rows_finite(lanes, (int)n_lanes, taken, count);
    if (good) {
        take_in(self, lanes, (int)n_lanes, count, seen, view.buf, n);
    }
    PyBuffer_Release(&view);
    if (!good) {
        goto refuse;
    }
    result = Py_BuildValue("Onn", tensor, n, count);
    goto done;
refuse:
    PyErr_Clear(); /* the caller takes a closer look */
    result = Py_NewRef(Py_None);
done:
    Py_XDECREF(array);
    Py_XDECREF(tensor);
    if (lanes != some) {
        PyMem_Free(lanes);
    }
    return result;
}

PyDoc_STRVAR(intake_take_doc,
"take(lanes, first, n, start, seen, slots) -> int\n\n"
"Takes in some rows of a batch, of which all numbers are finite.\n\n"
"Args:\n"
"    lanes: of the batch, as from open_batch.\n"
"    first, n: the first of these rows, and how many they are.\n"
"    start: position of the first of them in the stream.\n"
"    seen: its id.\n"
"    slots: int64, of all rows of the batch; those of these rows, and of rows before them that lose theirs, are written.\n\n"
"Returns:\n"
"    How many were taken.");

static PyObject *
intake_take(Intake *self, PyObject *const *args, Py_ssize_t n_args)
{
    Array slots;
    const Lane *lanes = NULL;
    if (n_args != 6) {
        PyErr_SetString(PyExc_TypeError, "take expects 6 arguments");
        return NULL;
    }
    const int n_lanes = open_lanes(args[0], &lanes);
    const Py_ssize_t first = PyLong_AsSsize_t(args[1]), n = PyLong_AsSsize_t(args[2]);
    const int64_t start = (int64_t)PyFloat_AsDouble(args[3]), seen = PyLong_AsLongLong(args[4]);
    if (PyErr_Occurred() || open_arrays(&args[5], &slots, 1, 0) < 1) {
        return NULL;
    }
    Py_ssize_t count = -1;
    if (first < 0 || n < 0 || first + n > slots.length || start + n > self->stop) {
        PyErr_SetString(PyExc_ValueError, "expected rows of the batch that are known of");
    } else {
        count = look_up(self, start, start + n, first);
        fetch_books(self, count);
        take_in(self, lanes, n_lanes, count, seen - first, slots.view.buf, slots.length);
    }
    close_arrays(&slots, 1);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

static PyMethodDef intake_methods[] = {
    {"add", (PyCFunction)(void (*)(void))intake_add, METH_FASTCALL, intake_add_doc},
    {"take", (PyCFunction)(void (*)(void))intake_take, METH_FASTCALL, intake_take_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject intake_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "memreplay.core._loops.Intake",
    .tp_doc = intake_doc,
    .tp_basicsize = sizeof(Intake),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = intake_new,
    .tp_dealloc = (destructor)intake_free,
    .tp_methods = intake_methods,
};

PyDoc_STRVAR(finite_doc,
"finite(rows, lanes) -> bool\n\n"
"Whether the given rows of a batch, with lanes as from open_batch, hold finite numbers only.");

static PyObject *
finite_rows(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array rows;
    const Lane *lanes;
    int n_lanes, good = 1;
    if (n_args != 2) {
        PyErr_SetString(PyExc_TypeError, "finite expects 2 arguments");
        return NULL;
    }
    const int opened = open_arrays(args, &rows, 1, 1);
    if (opened == 1 && (n_lanes = open_lanes(args[1], &lanes)) >= 0) {
        good = rows_finite(lanes, n_lanes, rows.view.buf, rows.length);
    }
    close_arrays(&rows, opened);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(good);
}

PyDoc_STRVAR(copy_doc,
"copy(rows, slots, lanes)\n\n"
"Copies rows of a batch, with lanes as from open_batch, to slots, in order.");

static PyObject *
copy(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[2];
    const Lane *lanes;
    int n_lanes;
    if (n_args != 3) {
        PyErr_SetString(PyExc_TypeError, "copy expects 3 arguments");
        return NULL;
    }
    const int opened = open_arrays(args, arrays, 2, 2);
    if (opened == 2 && arrays[0].length != arrays[1].length) {
        PyErr_SetString(PyExc_ValueError, "expected as many rows as slots");
    } else if (opened == 2 && (n_lanes = open_lanes(args[2], &lanes)) >= 0) {
        copy_rows(lanes, n_lanes, arrays[0].view.buf, arrays[1].view.buf, arrays[0].length);
    }
    close_arrays(arrays, opened);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fill_doc,
"fill(n, start, lanes) -> bool\n\n"
"Copies the n rows of a batch, with lanes as from open_batch, to the slots from start on, if all of their numbers are\n"
"finite. Otherwise nothing is copied.");

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    const Lane *lanes = NULL;
    int good = 1;
    if (n_args != 3) {
        PyErr_SetString(PyExc_TypeError, "fill expects 3 arguments");
        return NULL;
    }
    const Py_ssize_t n = PyLong_AsSsize_t(args[0]), start = PyLong_AsSsize_t(args[1]);
    const int n_lanes = open_lanes(args[2], &lanes);
    if (PyErr_Occurred()) {
        return NULL;
    }
    for (int write = 0; write < 2 && good; write++) {
        for (int j = 0; j < n_lanes && good; j++) {
            Lane whole = lanes[j]; /* all rows as one */
            whole.to += start * whole.size;
            whole.size *= n;
            if (write) {
                put_row(&whole, 0, 0);
            } else {
                good = all_finite(&whole, whole.from);
            }
        }
    }
    settle_rows();
    return PyBool_FromLong(good);
}

/* Copies the rows in `slots` and their ids; -1 after an error. Lanes lead into the store: here rows come out of it. */
static int
gather_rows(const Lane *lanes, int n_lanes, const int64_t *slots, Py_ssize_t n, const Array *ids, int64_t *found)
{
    const int64_t *known = ids->view.buf;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (slots[i] < 0 || slots[i] >= ids->length) {
            PyErr_Format(PyExc_IndexError, "row %lld is not in the store", (long long)slots[i]);
            return -1;
        }
        found[i] = known[slots[i]];
    }
    for (int j = 0; j < n_lanes; j++) {
        const Py_ssize_t size = lanes[j].size;
        char *to = (char *)lanes[j].from;
        for (Py_ssize_t i = 0; i < n; i++) {
            if (i + AHEAD < n) {
                const char *next = lanes[j].to + slots[i + AHEAD] * size;
                for (Py_ssize_t at = 0; at < size && at < FETCHED; at += LINE) {
                    PREFETCH_READ(next + at);
                }
            }
            memcpy(to + i * size, lanes[j].to + slots[i] * size, (size_t)size);
        }
    }
    return 0;
}

PyDoc_STRVAR(gather_doc,
"gather(slots, ids, columns, targets, found)\n\n"
"Copies rows of a store.\n\n"
"Args:\n"
"    slots: of the rows.\n"
"    ids: of every slot, the id of its row.\n"
"    columns: lanes of columns, see open_batch.\n"
"    targets: addresses with room for the rows of each column.\n"
"    found: int64; receives the ids of the rows.");

static PyObject *
gather(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[3];
    PyObject *result = NULL;
    Lane *lanes = NULL;
    int opened = 0, n_lanes;
    if (n_args != 5) {
        PyErr_SetString(PyExc_TypeError, "gather expects 5 arguments");
        return NULL;
    }
    PyObject *const given[3] = {args[0], args[1], args[4]};
    if ((opened = open_arrays(given, arrays, 3, 2)) == 3 &&
        (lanes = join_lanes(args[2], args[3], &n_lanes)) != NULL) {
        if (arrays[2].length != arrays[0].length) {
            PyErr_SetString(PyExc_ValueError, "expected room for as many ids as rows");
        } else if (gather_rows(lanes, n_lanes, arrays[0].view.buf, arrays[0].length, &arrays[1],
                               arrays[2].view.buf) == 0) {
            result = Py_NewRef(Py_None);
        }
    }
    close_arrays(arrays, opened);
    PyMem_Free(lanes);
    return result;
}

PyDoc_STRVAR(draw_doc,
"draw(uniforms, size, ids, columns, targets, slots, found) -> bool\n\n"
"Draws len(slots) distinct rows of a store and copies them: the distinct values of floor(u * size), in the order they\n"
"first appear. False, and nothing is copied, if these are too few.\n\n"
"Args:\n"
"    uniforms: numbers in [0, 1).\n"
"    size: rows held.\n"
"    ids, columns, targets, found: as for gather.\n"
"    slots: int64; receives the slots of the rows.");

static PyObject *
draw(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[4];
    PyObject *result = NULL;
    Lane *lanes = NULL;
    int64_t *table = NULL; /* places among the slots found, by a hash */
    int opened = 0, n_lanes;
    if (n_args != 7) {
        PyErr_SetString(PyExc_TypeError, "draw expects 7 arguments");
        return NULL;
    }
    const Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    PyObject *const given[4] = {args[0], args[2], args[5], args[6]};
    if (PyErr_Occurred() || (opened = open_arrays(given, arrays, 4, 2)) < 4 ||
        (lanes = join_lanes(args[3], args[4], &n_lanes)) == NULL) {
        goto done;
    }
    const double *uniforms = arrays[0].view.buf;
    int64_t *slots = arrays[2].view.buf;
    const Py_ssize_t n = arrays[2].length;
    if (arrays[3].length != n) {
        PyErr_SetString(PyExc_ValueError, "expected room for as many ids as rows");
        goto done;
    }
    size_t cells = 16;
    while (cells < 2 * (size_t)n) {
        cells *= 2;
    }
    if ((table = PyMem_Malloc(cells * sizeof(int64_t))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    memset(table, 0xff, cells * sizeof(int64_t));
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < arrays[0].length && count < n; i++) {
        const int64_t slot = (int64_t)(uniforms[i] * (double)size);
        size_t cell = HASH(slot) & (cells - 1);
        while (table[cell] >= 0 && slots[table[cell]] != slot) {
            cell = (cell + 1) & (cells - 1);
        }
        if (table[cell] < 0) {
            table[cell] = count;
            slots[count++] = slot;
        }
    }
    if (count < n) {
        result = Py_NewRef(Py_False);
    } else if (gather_rows(lanes, n_lanes, slots, n, &arrays[1], arrays[3].view.buf) == 0) {
        result = Py_NewRef(Py_True);
    }
done:
    close_arrays(arrays, opened);
    PyMem_Free(lanes);
    PyMem_Free(table);
    return result;
}

/* A row in the books. */
typedef struct {
    double height; /* its negated key */
    int64_t id, slot;
} Row;

/* Whether row a goes before b: the higher one, of equal ones the newer. */
static int
before(Row a, Row b)
{
    return a.height > b.height || (a.height == b.height && a.id > b.id);
}

/* Puts a row in place of the one at `at` of a heap, or below. */
static void
sink(Row *heap, Py_ssize_t size, Py_ssize_t at, Row row)
{
    Py_ssize_t child;
    while ((child = 2 * at + 1) < size) {
        if (child + 1 < size && before(heap[child + 1], heap[child])) {
            child++;
        }
        if (!before(heap[child], row)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = row;
}

static void
push(Row *heap, Py_ssize_t *size, Row row)
{
    Py_ssize_t at = (*size)++;
    for (; at > 0 && before(row, heap[(at - 1) / 2]); at = (at - 1) / 2) {
        heap[at] = heap[(at - 1) / 2];
    }
    heap[at] = row;
}

static Row
pop(Row *heap, Py_ssize_t *size)
{
    const Row top = heap[0];
    --*size;
    sink(heap, *size, 0, heap[*size]);
    return top;
}

PyDoc_STRVAR(contest_doc,
"contest(rows, heights, high, high_slots, bound, own, gone, lost, left, left_slots) -> int\n\n"
"Rows come one after the other into a full store: each time the highest goes.\n\n"
"Args:\n"
"    rows, heights: of the rows that come.\n"
"    high, high_slots: heights of the rows to go first, falling, and their slots.\n"
"    bound: of the heights, those from here up compete with these.\n"
"    own, gone, lost: receive the slot each row takes, the row that drives it out (unless it stays), and the height\n"
"        that is lost at each.\n"
"    left, left_slots: receive what is left of the rows to go first, with the new ones among them.\n\n"
"Returns:\n"
"    How many are left.");

static PyObject *
contest(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[9];
    PyObject *result = NULL;
    Row *heap = NULL;
    if (n_args != 10) {
        PyErr_SetString(PyExc_TypeError, "contest expects 10 arguments");
        return NULL;
    }
    const double bound = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *const given[9] = {args[0], args[1], args[2], args[3], args[5], args[6], args[7], args[8], args[9]};
    const int opened = open_arrays(given, arrays, 9, 4);
    if (opened < 9) {
        goto done;
    }
    const Py_ssize_t n = arrays[0].length, m = arrays[2].length;
    if (arrays[1].length != n || arrays[3].length != m || arrays[4].length != n || arrays[5].length != n ||
        arrays[6].length != n || arrays[7].length != m || arrays[8].length != m) {
        PyErr_SetString(PyExc_ValueError, "expected arrays of the same length");
        goto done;
    }
    const int64_t *rows = arrays[0].view.buf, *high_slots = arrays[3].view.buf;
    const double *heights = arrays[1].view.buf, *high = arrays[2].view.buf;
    int64_t *own = arrays[4].view.buf, *gone = arrays[5].view.buf, *left_slots = arrays[8].view.buf;
    double *lost = arrays[6].view.buf, *left = arrays[7].view.buf;
    if ((heap = PyMem_Malloc((size_t)(n + 1) * sizeof(Row))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_ssize_t next = 0, size = 0, count = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (heights[i] >= bound) {
            push(heap, &size, (Row){heights[i], i, -1});
        }
        if (size > 0 && (next == m || heap[0].height >= high[next])) {
            const Row out = pop(heap, &size);
            own[i] = out.id == i ? -1 : own[out.id];
            gone[out.id] = rows[i];
            lost[i] = out.height;
        } else if (next < m) {
            own[i] = high_slots[next];
            lost[i] = high[next++];
        } else {
            PyErr_SetString(PyExc_ValueError, "expected at least as many rows to go as rows that come");
            goto done;
        }
    }
    while (size > 0 || next < m) {
        if (size > 0 && (next == m || heap[0].height >= high[next])) {
            const Row row = pop(heap, &size);
            left[count] = row.height;
            left_slots[count++] = own[row.id];
        } else {
            left[count] = high[next];
            left_slots[count++] = high_slots[next++];
        }
    }
    result = PyLong_FromSsize_t(count);
done:
    close_arrays(arrays, opened);
    PyMem_Free(heap);
    return result;
}

PyDoc_STRVAR(lowest_by_row_doc,
"lowest_by_row(points, heights, bar, rows, lowest) -> int\n\n"
"Of the rows before that of the last point, those with a point below the bar.\n\n"
"Args:\n"
"    points, heights: where points lie, rising, and how high; the row of a point is its whole part.\n"
"    bar: below which a height counts.\n"
"    rows, lowest: receive the rows, rising, and the height of the lowest point of each.\n\n"
"Returns:\n"
"    How many they are.");

static PyObject *
lowest_by_row(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[4];
    PyObject *result = NULL;
    if (n_args != 5) {
        PyErr_SetString(PyExc_TypeError, "lowest_by_row expects 5 arguments");
        return NULL;
    }
    const double bar = PyFloat_AsDouble(args[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *const given[4] = {args[0], args[1], args[3], args[4]};
    const int opened = open_arrays(given, arrays, 4, 2);
    if (opened < 4) {
        goto done;
    }
    const Py_ssize_t n = arrays[0].length;
    if (n < 1 || arrays[1].length != n || arrays[2].length < n || arrays[3].length < n) {
        PyErr_SetString(PyExc_ValueError, "expected points, as many heights, and room for as many rows");
        goto done;
    }
    const double *points = arrays[0].view.buf, *heights = arrays[1].view.buf;
    int64_t *rows = arrays[2].view.buf;
    double *lowest = arrays[3].view.buf;
    const int64_t last = (int64_t)points[n - 1];
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < n && (int64_t)points[i] < last;) {
        const int64_t row = (int64_t)points[i];
        double height = heights[i];
        for (i++; i < n && (int64_t)points[i] == row; i++) {
            height = heights[i] < height ? heights[i] : height;
        }
        if (height < bar) {
            rows[count] = row;
            lowest[count++] = height;
        }
    }
    result = PyLong_FromSsize_t(count);
done:
    close_arrays(arrays, opened);
    return result;
}

/* A competition for slots, see stream_doc. */
typedef struct {
    PyObject_HEAD
    long long label, order, count;
    double mass, threshold, next;
    Py_ssize_t cursor;
    PyObject *arrays[2];  /* points and heights */
    Py_buffer views[2];   /* where they lie */
    Py_ssize_t n_points;
    char known;
    Row *rows; /* a heap of those held, if they are known */
    Py_ssize_t n_rows, room;
} Stream;

PyDoc_STRVAR(stream_doc,
"Stream(label, order)\n\n"
"One competition: the rows of a store, or of one class of it; see stream.py.");

static void
drop_points(Stream *self)
{
    for (int i = 0; i < 2; i++) {
        PyBuffer_Release(&self->views[i]);
        Py_CLEAR(self->arrays[i]);
    }
    self->n_points = self->cursor = 0;
    self->next = -INFINITY;
}

/* Makes room for n rows; -1 after an error. */
static int
make_room(Stream *self, Py_ssize_t n)
{
    if (n > self->room) {
        Row *rows = PyMem_Realloc(self->rows, (size_t)n * sizeof(Row));
        if (rows == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->rows = rows;
        self->room = n;
    }
    return 0;
}

static PyObject *
stream_look(Stream *self, PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[2];
    if (n_args != 2) {
        PyErr_SetString(PyExc_TypeError, "look expects points and heights");
        return NULL;
    }
    const int opened = open_arrays(args, arrays, 2, 2);
    if (opened < 2 || arrays[0].length != arrays[1].length) {
        if (opened == 2) {
            PyErr_SetString(PyExc_ValueError, "expected as many heights as points");
        }
        close_arrays(arrays, opened);
        return NULL;
    }
    drop_points(self);
    for (int i = 0; i < 2; i++) {
        self->arrays[i] = Py_NewRef(args[i]);
        self->views[i] = arrays[i].view;
    }
    if ((self->n_points = arrays[0].length) > 0) {
        self->next = *(const double *)self->views[0].buf;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_hold(Stream *self, PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[3];
    if (n_args != 3) {
        PyErr_SetString(PyExc_TypeError, "hold expects heights, ids and slots");
        return NULL;
    }
    const int opened = open_arrays(args, arrays, 3, 3);
    const Py_ssize_t n = opened < 3 ? 0 : arrays[0].length;
    if (opened == 3 && (arrays[1].length != n || arrays[2].length != n)) {
        PyErr_SetString(PyExc_ValueError, "expected arrays of the same length");
    }
    if (!PyErr_Occurred() && make_room(self, n) == 0) {
        for (Py_ssize_t i = 0; i < n; i++) {
            self->rows[i] = (Row){((const double *)arrays[0].view.buf)[i], ((const int64_t *)arrays[1].view.buf)[i],
                                  ((const int64_t *)arrays[2].view.buf)[i]};
        }
        for (Py_ssize_t i = n / 2; i-- > 0;) {
            sink(self->rows, n, i, self->rows[i]);
        }
        self->n_rows = n;
        self->known = 1;
    }
    close_arrays(arrays, opened);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stream_forget(Stream *self, PyObject *Py_UNUSED(none))
{
    PyMem_Free(self->rows);
    self->rows = NULL;
    self->n_rows = self->room = 0;
    self->known = 0;
    Py_RETURN_NONE;
}

static PyObject *
stream_worst(Stream *self, PyObject *Py_UNUSED(none))
{
    if (self->n_rows == 0) {
        PyErr_SetString(PyExc_IndexError, "no row is known");
        return NULL;
    }
    return Py_BuildValue("dLL", self->rows[0].height, (long long)self->rows[0].id, (long long)self->rows[0].slot);
}

static PyObject *
stream_pop(Stream *self, PyObject *Py_UNUSED(none))
{
    if (self->n_rows == 0) {
        PyErr_SetString(PyExc_IndexError, "no row is known");
        return NULL;
    }
    pop(self->rows, &self->n_rows);
    Py_RETURN_NONE;
}

static PyObject *
stream_push(Stream *self, PyObject *args)
{
    double height;
    long long id, slot;
    if (!PyArg_ParseTuple(args, "dLL", &height, &id, &slot) ||
        (self->n_rows == self->room && make_room(self, self->n_rows + self->n_rows / 8 + 16) < 0)) {
        return NULL;
    }
    push(self->rows, &self->n_rows, (Row){height, id, slot});
    Py_RETURN_NONE;
}

static PyObject *
stream_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    long long label, order;
    if (!PyArg_ParseTuple(args, "LL", &label, &order)) {
        return NULL;
    }
    Stream *self = (Stream *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->label = label;
    self->order = order;
    self->threshold = -INFINITY;
    drop_points(self);
    return (PyObject *)self;
}

static void
stream_free(Stream *self)
{
    drop_points(self);
    PyMem_Free(self->rows);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef stream_methods[] = {
    {"look", (PyCFunction)(void (*)(void))stream_look, METH_FASTCALL,
     "look(points, heights)\n\nThese are the points ahead."},
    {"hold", (PyCFunction)(void (*)(void))stream_hold, METH_FASTCALL,
     "hold(heights, ids, slots)\n\nThese are the rows held, with negated keys `heights`."},
    {"forget", (PyCFunction)stream_forget, METH_NOARGS, "forget()\n\nThe rows held are not known any more."},
    {"worst", (PyCFunction)stream_worst, METH_NOARGS, "worst()\n\n(-key, id, slot) of the row that goes first."},
    {"pop", (PyCFunction)stream_pop, METH_NOARGS, "pop()\n\nThe row that goes first is gone."},
    {"push", (PyCFunction)stream_push, METH_VARARGS, "push(height, id, slot)\n\nA row came."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stream_members[] = {
    {"label", T_LONGLONG, offsetof(Stream, label), READONLY, NULL},
    {"order", T_LONGLONG, offsetof(Stream, order), READONLY, NULL},
    {"count", T_LONGLONG, offsetof(Stream, count), 0, NULL},
    {"mass", T_DOUBLE, offsetof(Stream, mass), 0, NULL},
    {"threshold", T_DOUBLE, offsetof(Stream, threshold), 0, NULL},
    {"next", T_DOUBLE, offsetof(Stream, next), 0, NULL},
    {"cursor", T_PYSSIZET, offsetof(Stream, cursor), 0, NULL},
    {"points", T_OBJECT_EX, offsetof(Stream, arrays[0]), READONLY, NULL},
    {"heights", T_OBJECT_EX, offsetof(Stream, arrays[1]), READONLY, NULL},
    {"known", T_BOOL, offsetof(Stream, known), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject stream_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "memreplay.core._loops.Stream",
    .tp_doc = stream_doc,
    .tp_basicsize = sizeof(Stream),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = stream_new,
    .tp_dealloc = (destructor)stream_free,
    .tp_methods = stream_methods,
    .tp_members = stream_members,
};

/* One class among the labels of a batch. */
typedef struct {
    int64_t label;
    Stream *stream;    /* NULL while there is none */
    double mass;       /* where its rows begin on the axis of the stream, */
    Py_ssize_t cursor; /* and the first point that does not lie before */
} Class;

/* The labels of a batch, by class. */
typedef struct {
    Py_ssize_t n, n_classes;
    Class *classes;
    Py_ssize_t *of; /* the class of each row */
} Classes;

/* The stream of a label, with a reference of its own; NULL if there is none, or after an error. */
static Stream *
stream_of(PyObject *streams, int64_t label)
{
    PyObject *key = PyLong_FromLongLong(label);
    PyObject *found = key == NULL ? NULL : PyDict_GetItemWithError(streams, key);
    Py_XDECREF(key);
    if (found != NULL && !Py_IS_TYPE(found, &stream_type)) {
        PyErr_SetString(PyExc_TypeError, "expected streams");
        return NULL;
    }
    return (Stream *)Py_XNewRef(found);
}

static void
free_classes(Classes *self)
{
    for (Py_ssize_t i = 0; i < self->n_classes; i++) {
        Py_XDECREF(self->classes[i].stream);
    }
    PyMem_Free(self->classes);
    PyMem_Free(self->of);
}

/* Sorts labels by class; -1 after an error. To be freed either way. */
static int
find_classes(Classes *self, const int64_t *labels, Py_ssize_t n, PyObject *streams)
{
    size_t cells = 16;
    while (cells < 2 * (size_t)n) {
        cells *= 2;
    }
    self->n = n;
    self->n_classes = 0;
    self->classes = PyMem_Malloc(((size_t)n + 1) * sizeof(Class));
    self->of = PyMem_Malloc(((size_t)n + cells) * sizeof(Py_ssize_t));
    if (self->classes == NULL || self->of == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t *table = self->of + n; /* classes by a hash of their label */
    memset(table, 0xff, cells * sizeof(Py_ssize_t));
    for (Py_ssize_t i = 0; i < n; i++) {
        size_t cell = HASH(labels[i]) & (cells - 1);
        while (table[cell] >= 0 && self->classes[table[cell]].label != labels[i]) {
            cell = (cell + 1) & (cells - 1);
        }
        if (table[cell] < 0) {
            Stream *stream = stream_of(streams, labels[i]);
            if (PyErr_Occurred()) {
                return -1;
            }
            table[cell] = self->n_classes++;
            self->classes[table[cell]] =
                (Class){labels[i], stream, stream == NULL ? 0 : stream->mass, stream == NULL ? 0 : stream->cursor};
        }
        self->of[i] = table[cell];
    }
    return 0;
}

/* Writes the rows that may win: above which there is a point, or which lie beyond all points. Returns how many. */
static Py_ssize_t
find_contenders(Classes *self, int64_t *rows)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < self->n; i++) {
        Class *class = &self->classes[self->of[i]];
        const Py_ssize_t n = class->stream == NULL ? 0 : class->stream->n_points, first = class->cursor;
        const double *points = n == 0 ? NULL : class->stream->views[0].buf;
        class->mass += 1;
        while (class->cursor < n && points[class->cursor] < class->mass) {
            class->cursor++;
        }
        if (class->cursor > first || class->cursor >= n) {
            rows[count++] = i;
        }
    }
    return count;
}

PyDoc_STRVAR(contenders_doc,
"contenders(labels, streams, rows) -> int\n\n"
"Writes, rising, the rows with these labels that may win in their streams, and returns how many they are.");

static PyObject *
contenders(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[2];
    PyObject *result = NULL;
    if (n_args != 3 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "contenders expects labels, a dict and room for as many rows");
        return NULL;
    }
    PyObject *const given[2] = {args[0], args[2]};
    const int opened = open_arrays(given, arrays, 2, 1);
    if (opened == 2 && arrays[0].length != arrays[1].length) {
        PyErr_SetString(PyExc_ValueError, "expected room for as many rows as labels");
    } else if (opened == 2) {
        Classes classes;
        if (find_classes(&classes, arrays[0].view.buf, arrays[0].length, args[1]) == 0) {
            result = PyLong_FromSsize_t(find_contenders(&classes, arrays[1].view.buf));
        }
        free_classes(&classes);
    }
    close_arrays(arrays, opened);
    return result;
}

/* Where rows compete, see compete_doc. */
typedef struct {
    PyObject *streams, *sizes, *meet;
    int full;
    int64_t seen;
    Array books[4]; /* ids, keys, ranks, labels */
    int opened;
    long long most; /* rows of the largest stream; -1 if not known */
} Arena;

/* Opens what the last arguments say; -1 after an error. To be closed either way. */
static int
open_arena(Arena *self, PyObject *const *args)
{
    self->opened = 0;
    self->streams = args[0], self->sizes = args[1], self->meet = args[5];
    if (!PyDict_Check(args[0]) || !PyList_Check(args[1]) || !PyTuple_Check(args[4]) ||
        PyTuple_GET_SIZE(args[4]) != 4) {
        PyErr_SetString(PyExc_TypeError, "expected streams, sizes, bool, int, four arrays and a function");
        return -1;
    }
    self->full = PyObject_IsTrue(args[2]);
    self->seen = PyLong_AsLongLong(args[3]);
    self->most = -1;
    if (PyErr_Occurred()) {
        return -1;
    }
    PyObject *const *books = &PyTuple_GET_ITEM(args[4], 0);
    self->opened = open_arrays(books, self->books, 4, 0);
    for (int i = 1; i < self->opened; i++) {
        if (self->books[i].length != self->books[0].length) {
            PyErr_SetString(PyExc_ValueError, "expected arrays of the same length");
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* Whether a stream gives up a row itself when one of its own comes; 0, too, if that is not known. */
static int
gives(const Stream *stream, Arena *arena)
{
    if (arena->most < 0 && PyList_GET_SIZE(arena->sizes) > 0) {
        PyObject *top = PyList_GET_ITEM(arena->sizes, 0); /* (-rows, order, label) */
        if (!PyTuple_Check(top) || PyTuple_GET_SIZE(top) != 3) {
            PyErr_SetString(PyExc_TypeError, "expected a heap of sizes");
            return 0;
        }
        const long long most = -PyLong_AsLongLong(PyTuple_GET_ITEM(top, 0));
        PyObject *largest = PyDict_GetItemWithError(arena->streams, PyTuple_GET_ITEM(top, 2));
        if (largest != NULL && Py_IS_TYPE(largest, &stream_type) && ((Stream *)largest)->count == most) {
            arena->most = most;
        }
    }
    return arena->most >= 0 && stream->count >= 1 && stream->count >= arena->most - 1;
}

/* Row `row` of a batch, which ends at `end`, meets the points above it and contests a slot of its own stream. Returns 1
   if that is all, 0 if nothing was done because more is to be seen to, -1 after an error. */
static int
contest_slot(Stream *stream, double end, Py_ssize_t row, Arena *arena, int64_t *slots, Py_ssize_t n)
{
    const double *points = stream->views[0].buf, *heights = stream->views[1].buf;
    if (!arena->full || !stream->known || stream->n_rows == 0) {
        return 0;
    }
    double height = INFINITY;
    Py_ssize_t cursor = stream->cursor;
    while (cursor < stream->n_points && points[cursor] < end) {
        height = heights[cursor] < height ? heights[cursor] : height;
        cursor++;
    }
    const int lost = -height <= stream->threshold;
    if (cursor == stream->n_points || (!lost && !gives(stream, arena))) {
        return PyErr_Occurred() ? -1 : 0; /* points must be drawn, or another stream gives a row up */
    }
    stream->cursor = cursor;
    stream->next = points[cursor];
    if (lost) {
        return 1;
    }
    const Row worst = stream->rows[0];
    if (height >= worst.height) {
        stream->threshold = -height;
        return 1;
    }
    if (worst.slot < 0 || worst.slot >= arena->books[0].length) {
        PyErr_SetString(PyExc_IndexError, "expected slots of the store");
        return -1;
    }
    if (-worst.height > stream->threshold) {
        stream->threshold = -worst.height;
    }
    int64_t *ids = arena->books[0].view.buf;
    const int64_t id = arena->seen + row, earlier = ids[worst.slot] - arena->seen;
    if (earlier >= 0 && earlier < n && slots[earlier] == worst.slot) {
        slots[earlier] = -1;
    }
    sink(stream->rows, stream->n_rows, 0, (Row){height, id, worst.slot});
    slots[row] = worst.slot;
    ids[worst.slot] = id;
    ((double *)arena->books[1].view.buf)[worst.slot] = -height;
    ((int64_t *)arena->books[2].view.buf)[worst.slot] = -1;
    return 1;
}

/* Lets the rows of a batch compete, one after the other; -1 after an error. `array` is that of the slots. */
static int
run_arena(Arena *arena, Classes *classes, PyObject *array, int64_t *slots)
{
    for (Py_ssize_t i = 0; i < classes->n; i++) {
        Class *class = &classes->classes[classes->of[i]];
        Stream *stream = class->stream;
        if (stream != NULL) {
            const double end = stream->mass + 1;
            const int done = stream->next >= end ? 1 : contest_slot(stream, end, i, arena, slots, classes->n);
            if (done < 0) {
                return -1;
            }
            if (done) {
                stream->mass = end;
                continue;
            }
        }
        PyObject *none = PyObject_CallFunction(arena->meet, "LnO", (long long)class->label, i, array);
        if (none == NULL) {
            return -1;
        }
        Py_DECREF(none);
        arena->most = -1;
        if (stream == NULL && (class->stream = stream_of(arena->streams, class->label)) == NULL && PyErr_Occurred()) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(compete_doc,
"compete(labels, slots, streams, sizes, full, seen, books, meet)\n\n"
"Lets rows of equal weight contest the slots of a store, each in the stream of its label.\n\n"
"Args:\n"
"    labels: of the rows.\n"
"    slots: int64, -1; receives the slot that each row has in the end.\n"
"    streams: by label.\n"
"    sizes: a heap of (-rows held, order, label) of the streams.\n"
"    full: whether the store is.\n"
"    seen: the id of the first row.\n"
"    books: of every slot, the id, the key, the rank and the label of its row; written.\n"
"    meet: called with (label, row, slots) of each row of which more is to be seen to: a stream to be made, points to be\n"
"        drawn, another stream that must give a row up, rows held that are not known.");

static PyObject *
compete(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[2];
    Arena arena;
    if (n_args != 8) {
        PyErr_SetString(PyExc_TypeError, "compete expects 8 arguments");
        return NULL;
    }
    const int opened = open_arrays(args, arrays, 2, 1);
    if (opened == 2 && arrays[0].length != arrays[1].length) {
        PyErr_SetString(PyExc_ValueError, "expected as many slots as labels");
    } else if (opened == 2) {
        if (open_arena(&arena, args + 2) == 0) {
            Classes classes;
            if (find_classes(&classes, arrays[0].view.buf, arrays[0].length, arena.streams) == 0) {
                run_arena(&arena, &classes, args[1], arrays[1].view.buf);
            }
            free_classes(&classes);
        }
        close_arrays(arena.books, arena.opened);
    }
    close_arrays(arrays, opened);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Where the labels of an open batch lie, if they are int64; NULL if not. */
static const int64_t *
labels_in(PyObject *columns, PyObject *group, const Lane *lanes)
{
    PyObject *name, *column;
    Py_ssize_t at = 0;
    const int64_t *found = NULL;
    for (; PyDict_Next(columns, &at, &name, &column); lanes++) {
        if (name == group || PyObject_RichCompareBool(name, group, Py_EQ) == 1) {
            PyObject *lane = PyObject_GetAttr(column, name_lane), *dtype, *shape;
            Lane unused;
            if (lane != NULL && read_lane(lane, &unused, &dtype, &shape) == 0 && dtype == whole_type &&
                PyTuple_GET_SIZE(shape) == 0) {
                found = (const int64_t *)lanes->from;
            }
            Py_XDECREF(lane);
            break;
        }
    }
    return found;
}

PyDoc_STRVAR(add_labelled_doc,
"add_labelled(batch, columns, group, streams, sizes, full, seen, books, meet) -> (Tensor, int, int) | None\n\n"
"Lets the rows of a batch `compete` by the labels in its column `group`, and copies those that stay.\n\n"
"Returns:\n"
"    The slot of each row, or -1; how many rows there were, and how many were taken. None, and nothing is changed, if\n"
"    the batch cannot be copied as it is (see open_batch), or a row that may win holds a number that is not finite.");

static PyObject *
add_labelled(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Lane some[8], *lanes = some;
    Arena arena;
    Classes classes = {0, 0, NULL, NULL};
    PyObject *result = NULL, *array = NULL, *tensor = NULL;
    int64_t *rows = NULL;
    if (n_args != 9 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "add_labelled expects a batch, a dict of columns and 7 others");
        return NULL;
    }
    const Py_ssize_t n_lanes = PyDict_GET_SIZE(args[1]);
    if (!PyDict_CheckExact(args[0]) || PyDict_GET_SIZE(args[0]) != n_lanes) {
        Py_RETURN_NONE;
    }
    if (n_lanes > 8 && (lanes = PyMem_Malloc((size_t)n_lanes * sizeof(Lane))) == NULL) {
        return PyErr_NoMemory();
    }
    if (open_arena(&arena, args + 3) < 0) {
        goto done;
    }
    const Py_ssize_t n = open_columns(args[0], args[1], lanes);
    const int64_t *labels = n < 1 ? NULL : labels_in(args[1], args[2], lanes);
    if (labels == NULL) {
        PyErr_Clear();
        result = Py_NewRef(Py_None); /* the caller takes a closer look */
        goto done;
    }
    Py_buffer view;
    if (find_classes(&classes, labels, n, arena.streams) < 0 || new_slots(n, &tensor, &array, &view) < 0) {
        goto done;
    }
    int64_t *slots = view.buf;
    if ((rows = PyMem_Malloc(2 * (size_t)n * sizeof(int64_t))) == NULL) {
        PyErr_NoMemory();
    } else if (!rows_finite(lanes, (int)n_lanes, rows, find_contenders(&classes, rows))) {
        result = Py_NewRef(Py_None);
    } else {
        const int failed = run_arena(&arena, &classes, array, slots) < 0;
        int64_t *places = rows + n;
        Py_ssize_t count = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            if (slots[i] >= 0) {
                rows[count] = i;
                places[count++] = slots[i];
            }
        }
        copy_rows(lanes, (int)n_lanes, rows, places, count); /* after an error, too, they are in the books */
        result = failed ? NULL : Py_BuildValue("Onn", tensor, n, count);
    }
    PyBuffer_Release(&view);
done:
    close_arrays(arena.books, arena.opened);
    free_classes(&classes);
    PyMem_Free(rows);
    Py_XDECREF(array);
    Py_XDECREF(tensor);
    if (lanes != some) {
        PyMem_Free(lanes);
    }
    return result;
}

/* The place among `n` rising numbers, the first that is greater than `x`; the last one if there is none. */
static Py_ssize_t
first_above(const double *edges, Py_ssize_t n, double x)
{
    Py_ssize_t low = 0, high = n - 1;
    while (low < high) {
        const Py_ssize_t middle = low + (high - low) / 2;
        if (edges[middle] > x) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void
add_up(const double *values, double *edges, Py_ssize_t n)
{
    double sum = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        edges[i] = sum += values[i];
    }
}

PyDoc_STRVAR(challenge_doc,
"challenge(products, squares, held, free, chances, slots, scores) -> int\n\n"
"Scores rows by their gradients, and lets them challenge those held, one after the other.\n\n"
"Args:\n"
"    products: inner products of m gradients with each of n others.\n"
"    squares: squared lengths of all m + n.\n"
"    held: scores of the rows held.\n"
"    free: how many of the n take a slot of their own.\n"
"    chances: for each of the others two numbers in [0, 1), which row to challenge and whether it wins.\n"
"    slots: int64; receives the slot of each of the n, or -1.\n"
"    scores: receives the score of each of the n: 1 + the largest cosine, from 0 to 2.\n\n"
"Returns:\n"
"    The first row whose length is not finite; -1 if there is none.");

static PyObject *
challenge(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[6];
    PyObject *result = NULL;
    double *scale = NULL, *values = NULL;
    if (n_args != 7) {
        PyErr_SetString(PyExc_TypeError, "challenge expects 7 arguments");
        return NULL;
    }
    const Py_ssize_t free_slots = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *const given[6] = {args[0], args[1], args[2], args[4], args[5], args[6]};
    const int opened = open_arrays(given, arrays, 6, 4);
    if (opened < 6) {
        goto done;
    }
    const Py_ssize_t n = arrays[4].length, m = arrays[1].length - n, n_held = arrays[2].length;
    if (m < 1 || arrays[0].length != m * n || arrays[5].length != n || free_slots < 0 || free_slots > n ||
        arrays[3].length != 2 * (n - free_slots) || n_held + free_slots < 1) {
        PyErr_SetString(PyExc_ValueError, "expected arrays that fit together");
        goto done;
    }
    const double *products = arrays[0].view.buf, *squares = arrays[1].view.buf, *chances = arrays[3].view.buf;
    int64_t *slots = arrays[4].view.buf;
    double *scores = arrays[5].view.buf;
    if ((scale = PyMem_Malloc((size_t)(m + n) * sizeof(double))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < m + n; i++) {
        const double length = sqrt(squares[i]);
        if (!isfinite(length)) {
            result = PyLong_FromSsize_t(i);
            goto done;
        }
        scale[i] = length > 0 ? 1 / length : 0;
    }
    int challengers = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        double largest = products[i] * scale[0];
        for (Py_ssize_t j = 1; j < m; j++) {
            const double product = products[j * n + i] * scale[j];
            largest = product > largest ? product : largest;
        }
        const double score = largest * scale[m + i] + 1;
        scores[i] = score < 0 ? 0 : score > 2 ? 2 : score;
        slots[i] = i < free_slots ? n_held + i : -1;
        challengers |= i >= free_slots && scores[i] < 1;
    }
    if (challengers) {
        const Py_ssize_t size = n_held + free_slots;
        if ((values = PyMem_Malloc((size_t)size * 2 * sizeof(double))) == NULL) {
            PyErr_NoMemory();
            goto done;
        }
        double *edges = values + size;
        memcpy(values, arrays[2].view.buf, (size_t)n_held * sizeof(double));
        memcpy(values + n_held, scores, (size_t)free_slots * sizeof(double));
        add_up(values, edges, size);
        for (Py_ssize_t i = free_slots; i < n; i++, chances += 2) {
            if (!(scores[i] < 1)) {
                continue;
            }
            const Py_ssize_t slot = first_above(edges, size, chances[0] * edges[size - 1]);
            if (chances[1] * (values[slot] + scores[i]) < values[slot]) {
                for (Py_ssize_t j = 0; j < i; j++) {
                    slots[j] = slots[j] == slot ? -1 : slots[j];
                }
                slots[i] = slot;
                values[slot] = scores[i];
                add_up(values, edges, size);
            }
        }
    }
    result = PyLong_FromLong(-1);
done:
    close_arrays(arrays, opened);
    PyMem_Free(scale);
    PyMem_Free(values);
    return result;
}

static PyMethodDef methods[] = {
    {"add_labelled", (PyCFunction)(void (*)(void))add_labelled, METH_FASTCALL, add_labelled_doc},
    {"challenge", (PyCFunction)(void (*)(void))challenge, METH_FASTCALL, challenge_doc},
    {"compete", (PyCFunction)(void (*)(void))compete, METH_FASTCALL, compete_doc},
    {"contenders", (PyCFunction)(void (*)(void))contenders, METH_FASTCALL, contenders_doc},
    {"contest", (PyCFunction)(void (*)(void))contest, METH_FASTCALL, contest_doc},
    {"copy", (PyCFunction)(void (*)(void))copy, METH_FASTCALL, copy_doc},
    {"draw", (PyCFunction)(void (*)(void))draw, METH_FASTCALL, draw_doc},
    {"fill", (PyCFunction)(void (*)(void))fill, METH_FASTCALL, fill_doc},
    {"finite", (PyCFunction)(void (*)(void))finite_rows, METH_FASTCALL, finite_doc},
    {"gather", (PyCFunction)(void (*)(void))gather, METH_FASTCALL, gather_doc},
    {"lowest_by_row", (PyCFunction)(void (*)(void))lowest_by_row, METH_FASTCALL, lowest_by_row_doc},
    {"open_batch", (PyCFunction)(void (*)(void))open_batch, METH_FASTCALL, open_batch_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_loops",
    .m_doc = "The inner loops of a memory.",
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__loops(void)
{
    struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&name_lane, "lane"},
        {&name_dtype, "dtype"},
        {&name_shape, "shape"},
        {&name_requires_grad, "requires_grad"},
        {&name_is_cpu, "is_cpu"},
        {&name_is_contiguous, "is_contiguous"},
        {&name_is_neg, "is_neg"},
        {&name_data_ptr, "data_ptr"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if ((*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return NULL;
        }
    }
    struct {
        PyObject **object;
        const char *module, *text;
    } others[] = {
        {&tensor_type, "torch", "Tensor"},
        {&as_tensor, "torch", "from_numpy"},
        {&new_array, "numpy", "empty"},
        {&whole_numbers, "numpy", "int64"},
        {&whole_type, "torch", "int64"},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        PyObject *from = PyImport_ImportModule(others[i].module);
        *others[i].object = from == NULL ? NULL : PyObject_GetAttrString(from, others[i].text);
        Py_XDECREF(from);
        if (*others[i].object == NULL) {
            return NULL;
        }
    }
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && (PyModule_AddType(made, &intake_type) < 0 || PyModule_AddType(made, &stream_type) < 0 ||
                         PyModule_AddObject(made, "source", PyLong_FromUnsignedLong(SOURCE)) < 0)) {
        Py_CLEAR(made);
    }
    return made;
}
