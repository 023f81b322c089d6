/* The least of one value for each slot of a board, which is what a look at a board is about.

   `least` of server/boards/_board.py in C, and nothing beyond it: a worker writes these words
   meanwhile, and may write anything. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define NONE INT64_MAX

static int64_t
difference(int64_t value, int64_t lead)
{
    int64_t found;
    if (__builtin_sub_overflow(value, lead, &found)) {
        return lead < 0 ? INT64_MAX : INT64_MIN;
    }
    return found;
}

static int
is_within(Py_ssize_t first, Py_ssize_t step, Py_ssize_t count, Py_ssize_t words)
{
    return first >= 0 && step > 0 &&
           (count == 0 || (first < words && (words - 1 - first) / step >= count - 1));
}

static PyObject *
least(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t number)
{
    Py_ssize_t given[4];
    Py_buffer memory;
    if (number != 5) {
        PyErr_SetString(PyExc_TypeError, "least() takes 5 arguments");
        return NULL;
    }
    for (int i = 0; i < 4; i++) {
        given[i] = PyLong_AsSsize_t(arguments[i + 1]);
        if (given[i] == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    Py_ssize_t first = given[0], step = given[1], leads = given[2], count = given[3];
    if (PyObject_GetBuffer(arguments[0], &memory, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_ssize_t words = memory.len / (Py_ssize_t)sizeof(int64_t);
    if (count < 0 || !is_within(first, step, count, words) || !is_within(leads, 1, count, words)) {
        PyBuffer_Release(&memory);
        PyErr_SetString(PyExc_IndexError, "that is not all on the board");
        return NULL;
    }
    const volatile int64_t *word = memory.buf;
    int64_t found = NONE;
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t value = difference(word[first + i * step], word[leads + i]);
        if (value < found) {
            found = value;
        }
    }
    PyBuffer_Release(&memory);
    return PyLong_FromLongLong(found);
}

static PyMethodDef functions[] = {
    {"least", (PyCFunction)(void (*)(void))least, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_boards",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__boards(void)
{
    return PyModule_Create(&module);
}
