/* The inner loops of a memory: what a batch costs once it is decided who stays.

   Built where there is a C compiler (see setup.py). Without it the same happens in Python, with the same outcome. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

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

#define HASH(number) ((size_t)(((uint64_t)(number) * 0x9E3779B97F4A7C15u) >> 32))
#define AHEAD 2 /* rows fetched into the cache before they are copied */

/* One column: rows of `size` bytes in two places. `digit` is the size of a floating-point number in it, or 0. */
typedef struct {
    char *to;
    const char *from;
    Py_ssize_t size;
    int digit;
    uint64_t exponent; /* its bits in a number that is infinite or NaN */
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

/* Lanes from those of the table and the addresses of the columns of a batch; to be freed. */
static Lane *
open_lanes(PyObject *columns, PyObject *sources, int *n)
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
        unsigned long long to, exponent;
        PyObject *dtype, *shape;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(columns, i), "OOKniK", &dtype, &shape, &to, &lanes[i].size,
                              &lanes[i].digit, &exponent)) {
            break;
        }
        lanes[i].to = (char *)(uintptr_t)to;
        lanes[i].from = PyLong_AsVoidPtr(PyList_GET_ITEM(sources, i));
        lanes[i].exponent = exponent;
    }
    if (PyErr_Occurred()) {
        PyMem_Free(lanes);
        return NULL;
    }
    return lanes;
}

static void
copy_row(const Lane *lanes, int n, int64_t row, int64_t slot)
{
    for (int i = 0; i < n; i++) {
        const Lane *lane = &lanes[i];
        memcpy(lane->to + slot * lane->size, lane->from + row * lane->size, (size_t)lane->size);
    }
}

PyDoc_STRVAR(open_batch_doc,
"open_batch(batch, columns, tensor) -> (int, list, list) | None\n\n"
"Where the rows of a batch lie, if they can be copied from there as they are.\n\n"
"Args:\n"
"    batch: a dict of tensors.\n"
"    columns: a dict of columns with an attribute `lane`: None, or (dtype, shape of a row, address, bytes of a row,\n"
"        bytes of a floating-point number in it or 0, its exponent bits).\n"
"    tensor: the type of the tensors.\n\n"
"Returns:\n"
"    The number of rows, the lanes of the columns and the addresses of those of the batch; None if a column is\n"
"    missing, of another type, dtype, shape or layout, or needs a gradient.");

/* Attributes and methods of a tensor. */
static PyObject *name_lane, *name_dtype, *name_shape, *name_requires_grad, *name_is_cpu, *name_is_contiguous,
    *name_is_neg, *name_data_ptr;

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

static PyObject *
open_batch(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if (n_args != 3 || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "open_batch expects a batch, a dict of columns and a type");
        return NULL;
    }
    if (!PyDict_CheckExact(args[0]) || PyDict_GET_SIZE(args[0]) != PyDict_GET_SIZE(args[1])) {
        Py_RETURN_NONE;
    }
    PyObject *lanes = PyList_New(0), *sources = PyList_New(0), *result = NULL, *name, *column;
    Py_ssize_t n = -1, at = 0;
    while (lanes != NULL && sources != NULL && PyDict_Next(args[1], &at, &name, &column)) {
        PyObject *values = PyDict_GetItemWithError(args[0], name), *address = NULL;
        if (values == NULL || (PyObject *)Py_TYPE(values) != args[2]) {
            goto done;
        }
        PyObject *lane = PyObject_GetAttr(column, name_lane);
        if (lane == NULL || !PyTuple_Check(lane) || PyTuple_GET_SIZE(lane) != 6 ||
            !PyTuple_Check(PyTuple_GET_ITEM(lane, 1)) || !is(values, name_dtype, PyTuple_GET_ITEM(lane, 0), 0)) {
            Py_XDECREF(lane);
            goto done;
        }
        const Py_ssize_t rows = rows_of(values, PyTuple_GET_ITEM(lane, 1));
        /* whole numbers have no gradient, and are not negated where they lie */
        const int whole = PyObject_IsTrue(PyTuple_GET_ITEM(lane, 4)) == 0;
        const int fits = rows >= 0 && (n < 0 || rows == n) && is(values, name_is_cpu, Py_True, 0) &&
                         is(values, name_is_contiguous, Py_True, 1) &&
                         (whole || (is(values, name_requires_grad, Py_False, 0) && is(values, name_is_neg, Py_False, 1))) &&
                         (address = PyObject_CallMethodNoArgs(values, name_data_ptr)) != NULL &&
                         PyList_Append(lanes, lane) == 0 && PyList_Append(sources, address) == 0;
        Py_DECREF(lane);
        Py_XDECREF(address);
        if (!fits) {
            goto done;
        }
        n = rows;
    }
    if (lanes != NULL && sources != NULL && n >= 0) {
        result = Py_BuildValue("nOO", n, lanes, sources);
    }
done:
    Py_XDECREF(lanes);
    Py_XDECREF(sources);
    if (result == NULL) {
        PyErr_Clear(); /* the caller takes a closer look */
        Py_RETURN_NONE;
    }
    return result;
}

PyDoc_STRVAR(take_in_doc,
"take_in(winners, start, seen, books, batch, taken) -> int\n\n"
"Enters in the books, and copies, what wins among the next len(taken) rows of a stream.\n\n"
"Args:\n"
"    winners: of all that are known, positions in the stream (rising), the slots they take, their keys, and the\n"
"        positions at which they are driven out again.\n"
"    start: position of the first row of the batch.\n"
"    seen: its id.\n"
"    books: of every slot, the id, the key and the rank of its row; written.\n"
"    batch: as from open_batch.\n"
"    taken: int64; receives the slot of each row, or -1.\n\n"
"Returns:\n"
"    How many rows were taken; -1, and nothing is changed, if one of them holds a number that is not finite.");

static PyObject *
take_in(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[8];
    PyObject *result = NULL;
    Lane *lanes = NULL;
    int opened = 0, n_lanes;
    if (n_args != 6 || !PyTuple_Check(args[0]) || PyTuple_GET_SIZE(args[0]) != 4 || !PyTuple_Check(args[3]) ||
        PyTuple_GET_SIZE(args[3]) != 3 || !PyTuple_Check(args[4]) || PyTuple_GET_SIZE(args[4]) != 3) {
        PyErr_SetString(PyExc_TypeError, "take_in expects 4 arrays, two numbers, 3 arrays, a batch and an array");
        return NULL;
    }
    const int64_t start = PyLong_AsLongLong(args[1]), seen = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *given[8] = {[7] = args[5]};
    for (int i = 0; i < 7; i++) {
        given[i] = i < 4 ? PyTuple_GET_ITEM(args[0], i) : PyTuple_GET_ITEM(args[3], i - 4);
    }
    if ((opened = open_arrays(given, arrays, 8, 4)) < 8) {
        goto done;
    }
    if ((lanes = open_lanes(PyTuple_GET_ITEM(args[4], 1), PyTuple_GET_ITEM(args[4], 2), &n_lanes)) == NULL) {
        goto done;
    }
    const int64_t *rows = arrays[0].view.buf, *slots = arrays[1].view.buf, *gone = arrays[3].view.buf;
    const double *keys = arrays[2].view.buf;
    int64_t *ids = arrays[4].view.buf, *ranks = arrays[6].view.buf, *taken = arrays[7].view.buf;
    double *held = arrays[5].view.buf;
    const Py_ssize_t known = arrays[0].length, n = arrays[7].length, capacity = arrays[4].length;
    if (arrays[1].length != known || arrays[2].length != known || arrays[3].length != known ||
        arrays[5].length != capacity || arrays[6].length != capacity) {
        PyErr_SetString(PyExc_ValueError, "expected arrays of the same length");
        goto done;
    }
    const int64_t end = start + n;
    const Py_ssize_t first = first_from(rows, known, start), last = first_from(rows, known, end);
    for (Py_ssize_t i = first; i < last; i++) {
        if (slots[i] < 0 || slots[i] >= capacity) {
            PyErr_SetString(PyExc_IndexError, "expected slots of the store");
            goto done;
        }
        if (gone[i] < end) {
            continue;
        }
        for (int j = 0; j < n_lanes; j++) {
            const Lane *lane = &lanes[j];
            PREFETCH(lane->to + slots[i] * lane->size);
            if (!all_finite(lane, lane->from + (rows[i] - start) * lane->size)) {
                result = PyLong_FromLong(-1);
                goto done;
            }
        }
    }
    memset(taken, 0xff, (size_t)n * sizeof(int64_t));
    long count = 0;
    for (Py_ssize_t i = first; i < last; i++) {
        if (gone[i] < end) {
            continue;
        }
        const int64_t row = rows[i] - start, slot = slots[i];
        ids[slot] = seen + row;
        held[slot] = keys[i];
        ranks[slot] = -1;
        taken[row] = slot;
        copy_row(lanes, n_lanes, row, slot);
        count++;
    }
    result = PyLong_FromLong(count);
done:
    close_arrays(arrays, opened);
    PyMem_Free(lanes);
    return result;
}

PyDoc_STRVAR(finite_doc,
"finite(rows, columns, sources) -> bool\n\n"
"Whether the given rows of a batch hold finite numbers only.");

static PyObject *
finite_rows(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array rows;
    Lane *lanes = NULL;
    int n_lanes, good = 1;
    if (n_args != 3) {
        PyErr_SetString(PyExc_TypeError, "finite expects 3 arguments");
        return NULL;
    }
    const int opened = open_arrays(args, &rows, 1, 1);
    if (opened == 1 && (lanes = open_lanes(args[1], args[2], &n_lanes)) != NULL) {
        const int64_t *row = rows.view.buf;
        for (int j = 0; j < n_lanes && good; j++) {
            for (Py_ssize_t i = 0; i < rows.length && good; i++) {
                good = all_finite(&lanes[j], lanes[j].from + row[i] * lanes[j].size);
            }
        }
    }
    close_arrays(&rows, opened);
    PyMem_Free(lanes);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(good);
}

PyDoc_STRVAR(copy_doc,
"copy(rows, slots, columns, sources)\n\n"
"Copies rows of a batch to slots, in order.");

static PyObject *
copy(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[2];
    Lane *lanes = NULL;
    int n_lanes;
    if (n_args != 4) {
        PyErr_SetString(PyExc_TypeError, "copy expects 4 arguments");
        return NULL;
    }
    const int opened = open_arrays(args, arrays, 2, 2);
    if (opened == 2 && arrays[0].length != arrays[1].length) {
        PyErr_SetString(PyExc_ValueError, "expected as many rows as slots");
    } else if (opened == 2 && (lanes = open_lanes(args[2], args[3], &n_lanes)) != NULL) {
        const int64_t *rows = arrays[0].view.buf, *slots = arrays[1].view.buf;
        for (Py_ssize_t i = 0; i < arrays[0].length; i++) {
            copy_row(lanes, n_lanes, rows[i], slots[i]);
        }
    }
    close_arrays(arrays, opened);
    PyMem_Free(lanes);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
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
                for (Py_ssize_t at = 0; at < size && at < 4096; at += 64) {
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
"    columns: lanes, see open_batch.\n"
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
        (lanes = open_lanes(args[2], args[3], &n_lanes)) != NULL) {
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
        (lanes = open_lanes(args[3], args[4], &n_lanes)) == NULL) {
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

PyDoc_STRVAR(enter_doc,
"enter(slots, rows, heights, labels, seen, ids, held, ranks, classes, columns, sources, taken)\n\n"
"Enters in the books, and copies, rows of a batch that have won a slot; one won twice goes to the later row.\n\n"
"Args:\n"
"    slots, rows, heights, labels: lists with the slot, the row of the batch, the negated key and the label of each.\n"
"    seen: the id of the first row of the batch.\n"
"    ids, held, ranks, classes: of every slot, the id, the key, the rank and the label of its row; written.\n"
"    columns, sources: as from open_batch.\n"
"    taken: int64; receives the slot of each row that is there at the end.");

static PyObject *
enter(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    Array arrays[5];
    PyObject *result = NULL;
    Lane *lanes = NULL;
    int opened = 0, n_lanes;
    if (n_args != 12) {
        PyErr_SetString(PyExc_TypeError, "enter expects 12 arguments");
        return NULL;
    }
    const int64_t seen = PyLong_AsLongLong(args[4]);
    PyObject *const given[5] = {args[5], args[6], args[7], args[8], args[11]};
    if (PyErr_Occurred() || (opened = open_arrays(given, arrays, 5, 0)) < 5 ||
        (lanes = open_lanes(args[9], args[10], &n_lanes)) == NULL) {
        goto done;
    }
    int64_t *ids = arrays[0].view.buf, *ranks = arrays[2].view.buf, *classes = arrays[3].view.buf;
    int64_t *taken = arrays[4].view.buf;
    double *held = arrays[1].view.buf;
    const Py_ssize_t n = PyList_Size(args[0]), capacity = arrays[0].length;
    if (n != PyList_Size(args[1]) || n != PyList_Size(args[2]) || n != PyList_Size(args[3]) ||
        arrays[1].length != capacity || arrays[2].length != capacity || arrays[3].length != capacity) {
        PyErr_SetString(PyExc_ValueError, "expected lists, and arrays, of the same length");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const int64_t slot = PyLong_AsLongLong(PyList_GET_ITEM(args[0], i));
        const int64_t row = PyLong_AsLongLong(PyList_GET_ITEM(args[1], i));
        if (slot < 0 || slot >= capacity || row < 0 || row >= arrays[4].length) {
            PyErr_SetString(PyExc_IndexError, "expected rows of the batch and slots of the store");
            goto done;
        }
        if (ids[slot] >= seen && ids[slot] - seen < arrays[4].length && taken[ids[slot] - seen] == slot) {
            taken[ids[slot] - seen] = -1;
        }
        ids[slot] = seen + row;
        held[slot] = -PyFloat_AsDouble(PyList_GET_ITEM(args[2], i));
        ranks[slot] = -1;
        classes[slot] = PyLong_AsLongLong(PyList_GET_ITEM(args[3], i));
        taken[row] = slot;
        copy_row(lanes, n_lanes, row, slot);
    }
    if (!PyErr_Occurred()) {
        result = Py_NewRef(Py_None);
    }
done:
    close_arrays(arrays, opened);
    PyMem_Free(lanes);
    return result;
}

/* Which of two rows goes first: the higher one, of equal ones the newer, which has the larger number. */
static int
before(const double *heights, int64_t a, int64_t b)
{
    return heights[a] > heights[b] || (heights[a] == heights[b] && a > b);
}

static void
push(int64_t *heap, Py_ssize_t *size, int64_t item, const double *heights)
{
    Py_ssize_t at = (*size)++;
    while (at > 0 && before(heights, item, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static int64_t
pop(int64_t *heap, Py_ssize_t *size, const double *heights)
{
    const int64_t top = heap[0], item = heap[--(*size)];
    Py_ssize_t at = 0, child;
    while ((child = 2 * at + 1) < *size) {
        if (child + 1 < *size && before(heights, heap[child + 1], heap[child])) {
            child++;
        }
        if (!before(heights, heap[child], item)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
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
    int64_t *heap = NULL;
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
    if ((heap = PyMem_Malloc((size_t)(n + 1) * sizeof(int64_t))) == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    Py_ssize_t next = 0, size = 0, count = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (heights[i] >= bound) {
            push(heap, &size, i, heights);
        }
        if (size > 0 && (next == m || heights[heap[0]] >= high[next])) {
            const int64_t out = pop(heap, &size, heights);
            own[i] = out == i ? -1 : own[out];
            gone[out] = rows[i];
            lost[i] = heights[out];
        } else if (next < m) {
            own[i] = high_slots[next];
            lost[i] = high[next++];
        } else {
            PyErr_SetString(PyExc_ValueError, "expected at least as many rows to go as rows that come");
            goto done;
        }
    }
    while (size > 0 || next < m) {
        if (size > 0 && (next == m || heights[heap[0]] >= high[next])) {
            const int64_t row = pop(heap, &size, heights);
            left[count] = heights[row];
            left_slots[count++] = own[row];
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

/* One class among the labels of a batch. */
typedef struct {
    int64_t label;
    double start;         /* rows of it seen before */
    Py_ssize_t count;     /* rows of it in the batch */
    Py_ssize_t place;     /* of them, those looked at again */
    int open;             /* whether all of its rows may be kept */
    Py_buffer points;     /* drawn ahead, on the axis of its rows */
    Py_ssize_t at, n;     /* the next of them, and how many there are */
} Class;

/* Reads a stream: rows seen before, and the points drawn ahead if the next lies among the rows of the batch. */
static int
open_class(Class *class, PyObject *streams)
{
    PyObject *label = PyLong_FromLongLong(class->label), *mass = NULL, *next = NULL, *cursor = NULL, *points = NULL;
    if (label == NULL) {
        return -1;
    }
    PyObject *stream = PyDict_GetItemWithError(streams, label);
    Py_DECREF(label);
    if (stream == NULL) {
        class->open = 1;
        return PyErr_Occurred() ? -1 : 0;
    }
    if ((mass = PyObject_GetAttrString(stream, "mass")) == NULL ||
        (next = PyObject_GetAttrString(stream, "next")) == NULL) {
        goto done;
    }
    class->start = PyFloat_AsDouble(mass);
    const double first = PyFloat_AsDouble(next);
    class->open = isinf(first) && first < 0;
    if (PyErr_Occurred() || class->open || first >= class->start + (double)class->count) {
        goto done;
    }
    if ((cursor = PyObject_GetAttrString(stream, "cursor")) == NULL ||
        (points = PyObject_GetAttrString(stream, "points")) == NULL) {
        goto done;
    }
    class->at = PyLong_AsSsize_t(cursor);
    if (PyErr_Occurred() || PyObject_GetBuffer(points, &class->points, PyBUF_SIMPLE) < 0) {
        goto done;
    }
    class->n = class->points.len / (Py_ssize_t)sizeof(double);
done:
    Py_XDECREF(mass);
    Py_XDECREF(next);
    Py_XDECREF(cursor);
    Py_XDECREF(points);
    return PyErr_Occurred() ? -1 : 0;
}

/* Whether a point lies above the row of the class that is looked at, or all points lie before it. */
static int
may_win(Class *class, Py_ssize_t row)
{
    if (class->open) {
        return 1;
    }
    if (class->points.obj == NULL) {
        return 0;
    }
    const double *points = class->points.buf;
    if (points[class->n - 1] < class->start + (double)class->count &&
        row >= (Py_ssize_t)(points[class->n - 1] - class->start)) {
        return 1;
    }
    while (class->at < class->n && (Py_ssize_t)(points[class->at] - class->start) < row) {
        class->at++;
    }
    return class->at < class->n && (Py_ssize_t)(points[class->at] - class->start) == row;
}

PyDoc_STRVAR(contenders_doc,
"contenders(labels, streams, columns=None, sources=None) -> (dict, list) | None\n\n"
"Rows that may win in the streams of their labels: where the rows of each label end on the axis of its stream, and\n"
"(row, label, where the row ends) of those that may. None if one of these holds a number that is not finite.");

static PyObject *
contenders(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n_args)
{
    if ((n_args != 2 && n_args != 4) || !PyList_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "contenders expects a list, a dict and perhaps a batch");
        return NULL;
    }
    int n_lanes = 0;
    Lane *lanes = n_args == 2 ? NULL : open_lanes(args[2], args[3], &n_lanes);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const Py_ssize_t n = PyList_GET_SIZE(args[0]);
    size_t cells = 16;
    while (cells < 2 * (size_t)n) {
        cells *= 2;
    }
    Py_ssize_t n_classes = 0;
    PyObject *result = NULL, *ends = NULL, *found = NULL;
    Class *classes = PyMem_Calloc((size_t)n + 1, sizeof(Class));
    Py_ssize_t *of = PyMem_Malloc(((size_t)n + 1) * sizeof(Py_ssize_t)); /* the class of each row */
    Py_ssize_t *table = PyMem_Malloc(cells * sizeof(Py_ssize_t));        /* classes by a hash of their label */
    if (classes == NULL || of == NULL || table == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    memset(table, 0xff, cells * sizeof(Py_ssize_t));
    for (Py_ssize_t i = 0; i < n; i++) {
        const int64_t label = PyLong_AsLongLong(PyList_GET_ITEM(args[0], i));
        if (label == -1 && PyErr_Occurred()) {
            goto done;
        }
        size_t cell = HASH(label) & (cells - 1);
        while (table[cell] >= 0 && classes[table[cell]].label != label) {
            cell = (cell + 1) & (cells - 1);
        }
        if (table[cell] < 0) {
            table[cell] = n_classes;
            classes[n_classes++].label = label;
        }
        of[i] = table[cell];
        classes[of[i]].count++;
    }
    if ((ends = PyDict_New()) == NULL || (found = PyList_New(0)) == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < n_classes; i++) {
        PyObject *label, *end = NULL;
        if (open_class(&classes[i], args[1]) < 0) {
            goto done;
        }
        if ((label = PyLong_FromLongLong(classes[i].label)) != NULL &&
            (end = PyFloat_FromDouble(classes[i].start + (double)classes[i].count)) != NULL) {
            PyDict_SetItem(ends, label, end);
        }
        Py_XDECREF(label);
        Py_XDECREF(end);
        if (PyErr_Occurred()) {
            goto done;
        }
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        Class *class = &classes[of[i]];
        const Py_ssize_t row = class->place++;
        if (may_win(class, row)) {
            for (int j = 0; j < n_lanes; j++) {
                if (!all_finite(&lanes[j], lanes[j].from + i * lanes[j].size)) {
                    result = Py_NewRef(Py_None);
                    goto done;
                }
            }
            PyObject *entry = Py_BuildValue("(nLd)", i, (long long)class->label, class->start + (double)row + 1.0);
            if (entry == NULL || PyList_Append(found, entry) < 0) {
                Py_XDECREF(entry);
                goto done;
            }
            Py_DECREF(entry);
        }
    }
    result = PyTuple_Pack(2, ends, found);
done:
    for (Py_ssize_t i = 0; i < n_classes; i++) {
        PyBuffer_Release(&classes[i].points);
    }
    PyMem_Free(classes);
    PyMem_Free(of);
    PyMem_Free(table);
    PyMem_Free(lanes);
    Py_XDECREF(ends);
    Py_XDECREF(found);
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
    {"challenge", (PyCFunction)(void (*)(void))challenge, METH_FASTCALL, challenge_doc},
    {"contenders", (PyCFunction)(void (*)(void))contenders, METH_FASTCALL, contenders_doc},
    {"contest", (PyCFunction)(void (*)(void))contest, METH_FASTCALL, contest_doc},
    {"copy", (PyCFunction)(void (*)(void))copy, METH_FASTCALL, copy_doc},
    {"draw", (PyCFunction)(void (*)(void))draw, METH_FASTCALL, draw_doc},
    {"enter", (PyCFunction)(void (*)(void))enter, METH_FASTCALL, enter_doc},
    {"finite", (PyCFunction)(void (*)(void))finite_rows, METH_FASTCALL, finite_doc},
    {"gather", (PyCFunction)(void (*)(void))gather, METH_FASTCALL, gather_doc},
    {"open_batch", (PyCFunction)(void (*)(void))open_batch, METH_FASTCALL, open_batch_doc},
    {"take_in", (PyCFunction)(void (*)(void))take_in, METH_FASTCALL, take_in_doc},
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
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddObject(made, "source", PyLong_FromUnsignedLong(SOURCE)) < 0) {
        Py_CLEAR(made);
    }
    return made;
}
