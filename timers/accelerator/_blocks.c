/* Entering and leaving a plain block on a board, as one step.

   What scopes.expires writes out in Python for inner loops, in C: a third of the time. Whatever is
   not the plain case (see slots/slot.py) is left to the method in Python, which this one takes the
   place of; so is every error. Nothing here knows more than these methods do, and nothing is
   stored that they would not store.

   No step below "one step" allocates anything that is collected, or ends an object that could run
   code: another thread, a handler, a finalizer come before it or after it. The process that serves
   the board reads at any moment; the order in which it may see the stores is that of
   transport/board.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h> /* of 3.11; part of Python.h since 3.12 */
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#ifdef Py_GIL_DISABLED
#error "one step is one step because of the interpreter's lock"
#endif

#define DEPTH 0xFFFF
#define ENTER 0x10001
#define NONE INT64_MAX
#define LONGEST_SECONDS 3e9
#define PLACES 512 /* a power of two */

#define FIELD(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* -- what is known of the classes in Python, once they are handed over -------------------------- */

static PyTypeObject *block_type; /* the class that is made here */
static PyTypeObject *slot_type;
static PyObject *enter_in_python, *exit_in_python;
static PyObject *names; /* of the module with the configured client */
static int64_t look;    /* which word says when the server looks next */

static Py_ssize_t block_after, block_plain, block_scope, block_client, block_warn_after,
    block_ticket, block_others, block_slot;
static Py_ssize_t slot_after, slot_after_ns, slot_lead, slot_limit, slot_view, slot_guard,
    slot_guarded, slot_at_state, slot_at_deadline, slot_at_short;

struct field {
    const char *name;
    Py_ssize_t *offset;
};

static const struct field block_fields[] = {
    {"_after", &block_after},   {"_plain", &block_plain},           {"_scope", &block_scope},
    {"_client", &block_client}, {"_warn_after", &block_warn_after}, {"_ticket", &block_ticket},
    {"_others", &block_others}, {"_slot", &block_slot},             {NULL, NULL},
};

static const struct field slot_fields[] = {
    {"after", &slot_after},
    {"after_ns", &slot_after_ns},
    {"lead", &slot_lead},
    {"limit", &slot_limit},
    {"view", &slot_view},
    {"guard", &slot_guard},
    {"guarded", &slot_guarded},
    {"at_state", &slot_at_state},
    {"at_deadline", &slot_at_deadline},
    {"at_short", &slot_at_short},
    {NULL, NULL},
};

static PyObject *str_abandon, *str_after, *str_by_scope, *str_client, *str_closed,
    *str_configured, *str_scope, *str_timer_slots, *str_wake;

static int
find_fields(PyTypeObject *type, const struct field *field)
{
    for (; field->name != NULL; field++) {
        PyObject *member = PyObject_GetAttrString((PyObject *)type, field->name);
        if (member == NULL) {
            return -1;
        }
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type)) {
            PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, field->name);
            Py_DECREF(member);
            return -1;
        }
        *field->offset = ((PyMemberDescrObject *)member)->d_member->offset;
        Py_DECREF(member);
    }
    return 0;
}

/* -- small pieces ------------------------------------------------------------------------------- */

static int64_t
monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* what time.monotonic_ns() is on Linux */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A field of a slot that is an integer; false, with no error set, when it is none. */
static bool
number(PyObject *object, Py_ssize_t offset, int64_t *found)
{
    PyObject *value = FIELD(object, offset);
    int overflow;
    if (value == NULL || !PyLong_CheckExact(value)) {
        return false;
    }
    *found = PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow;
}

static bool
seconds(PyObject *value, double *found)
{
    if (value != NULL && PyFloat_CheckExact(value)) {
        *found = PyFloat_AS_DOUBLE(value);
        return true;
    }
    if (value != NULL && PyLong_CheckExact(value)) {
        int overflow;
        *found = (double)PyLong_AsLongAndOverflow(value, &overflow);
        return !overflow;
    }
    return false;
}

/* The words of a slot's board, and how many; NULL for a slot that has none. */
static int64_t *
words_of(PyObject *slot, int64_t *count)
{
    PyObject *view = FIELD(slot, slot_view);
    if (view == NULL || !PyMemoryView_Check(view)) {
        return NULL;
    }
    PyMemoryViewObject *memory = (PyMemoryViewObject *)view;
    if (memory->flags & _Py_MEMORYVIEW_RELEASED ||
        memory->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED) {
        return NULL;
    }
    Py_buffer *buffer = &memory->view;
    if (buffer->readonly || buffer->ndim != 1 || buffer->itemsize != 8 ||
        (buffer->strides != NULL && buffer->strides[0] != 8)) {
        return NULL;
    }
    *count = buffer->len / 8;
    return buffer->buf;
}

static bool
within(int64_t index, int64_t count)
{
    return 0 <= index && index < count;
}

/* After a method of the slot has failed: the block is not to stay open. Returns NULL. */
static PyObject *
abandoned(PyObject *block)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *done = PyObject_CallMethodNoArgs(block, str_abandon);
    if (done == NULL) { /* an interrupt, which matters more */
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return NULL;
    }
    Py_DECREF(done);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

/* -- a block is entered ------------------------------------------------------------------------- */

/* The slot of a block's scope in this thread, as a new reference. NULL without an error when there
   is none yet, or no client of ours. */
static PyObject *
slot_of(PyObject *block)
{
    PyObject *client = FIELD(block, block_client), *scope = FIELD(block, block_scope);
    if (client == Py_None) {
        client = PyDict_GetItemWithError(names, str_configured);
    }
    if (client == NULL || client == Py_None || scope == NULL || !PyUnicode_CheckExact(scope)) {
        return NULL;
    }
    Py_INCREF(client);
    PyObject *slots = PyObject_GetAttr(client, str_timer_slots), *by_scope = NULL, *slot = NULL;
    Py_DECREF(client);
    if (slots != NULL && slots != Py_None) {
        by_scope = PyObject_GetAttr(slots, str_by_scope);
    }
    Py_XDECREF(slots);
    if (by_scope != NULL && PyDict_CheckExact(by_scope)) {
        slot = PyDict_GetItemWithError(by_scope, scope);
        slot = slot != NULL && PyObject_TypeCheck(slot, slot_type) ? Py_NewRef(slot) : NULL;
    }
    Py_XDECREF(by_scope);
    /* The method in Python asks again, and raises what there is to raise. */
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
    return slot;
}

static bool
is_prepared(PyObject *slot, PyObject *block)
{
    PyObject *prepared = FIELD(slot, slot_after), *plain = FIELD(block, block_plain);
    double one, other;
    if (FIELD(block, block_ticket) != Py_None) {
        return false;
    }
    return seconds(prepared, &one) && seconds(plain, &other) && one == other;
}

static PyObject *
enter(PyObject *block, PyObject *Py_UNUSED(none))
{
    PyObject *slot = FIELD(block, block_ticket) == Py_None ? slot_of(block) : NULL;
    if (slot == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        return PyObject_CallOneArg(enter_in_python, block);
    }
    PyObject *guard = NULL, *ticket = NULL;
    if (!is_prepared(slot, block) || FIELD(slot, slot_guarded) == NULL) {
        goto in_python;
    }
    /* A collection may come in here, and with it anything. */
    guard = PyWeakref_NewRef(block, FIELD(slot, slot_guarded));
    if (guard == NULL) {
        goto failed;
    }
    int64_t count, at_state, at_deadline, after_ns, lead;
    int64_t *words = words_of(slot, &count); /* one step from here */
    if (words == NULL || !is_prepared(slot, block) || !number(slot, slot_at_state, &at_state) ||
        !number(slot, slot_at_deadline, &at_deadline) ||
        !number(slot, slot_after_ns, &after_ns) || !number(slot, slot_lead, &lead) ||
        !within(at_state, count) || !within(at_deadline, count) || !within(look, count)) {
        goto in_python;
    }
    int64_t state = __atomic_load_n(&words[at_state], __ATOMIC_RELAXED);
    if (state & DEPTH) {
        goto in_python;
    }
    ticket = PyLong_FromLongLong(state + ENTER);
    if (ticket == NULL) {
        goto failed;
    }
    int64_t deadline = monotonic_ns() + after_ns;
    PyObject *old_slot = FIELD(block, block_slot), *old_guard = FIELD(slot, slot_guard);
    FIELD(block, block_ticket) = ticket; /* in the place of None */
    Py_DECREF(Py_None);
    FIELD(slot, slot_guard) = guard;
    FIELD(block, block_slot) = slot;
    __atomic_store_n(&words[at_deadline], deadline, __ATOMIC_RELAXED);
    __atomic_store_n(&words[at_state], state + ENTER, __ATOMIC_RELEASE);
    bool late = deadline - lead < __atomic_load_n(&words[look], __ATOMIC_RELAXED);
    PyObject *woken = Py_None;
    if (late) {
        Py_INCREF(slot);
        PyObject *when = PyLong_FromLongLong(deadline);
        woken = when == NULL ? NULL : PyObject_CallMethodOneArg(slot, str_wake, when);
        Py_XDECREF(when);
        Py_XDECREF(woken);
        Py_DECREF(slot);
    }
    Py_XDECREF(old_guard);
    Py_XDECREF(old_slot); /* its end may run anything */
    if (woken == NULL) {
        return abandoned(block);
    }
    Py_RETURN_NONE;

in_python:
    Py_XDECREF(guard);
    Py_DECREF(slot);
    return PyObject_CallOneArg(enter_in_python, block);
failed:
    Py_XDECREF(guard);
    Py_DECREF(slot);
    return NULL;
}

/* -- a block is left ---------------------------------------------------------------------------- */

static PyObject *
leave_in_python(PyObject *block, PyObject *const *given, Py_ssize_t count)
{
    PyObject *arguments[4] = {block};
    if (count > 3) {
        count = 3; /* it raises a TypeError for fewer, and CPython never gives more */
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[i + 1] = given[i];
    }
    return PyObject_Vectorcall(exit_in_python, arguments, count + 1, NULL);
}

static PyObject *
leave(PyObject *block, PyObject *const *given, Py_ssize_t arguments)
{
    int64_t now = monotonic_ns();
    PyObject *slot = FIELD(block, block_slot); /* one step from here */
    int64_t ticket, count, at_state, at_deadline, at_short, after_ns, limit;
    if (arguments != 3 || slot == NULL || !PyObject_TypeCheck(slot, slot_type) ||
        !number(block, block_ticket, &ticket)) {
        return leave_in_python(block, given, arguments);
    }
    int64_t *words = words_of(slot, &count);
    if (words == NULL || !number(slot, slot_at_state, &at_state) ||
        !number(slot, slot_at_deadline, &at_deadline) ||
        !number(slot, slot_at_short, &at_short) || !number(slot, slot_after_ns, &after_ns) ||
        !number(slot, slot_limit, &limit) || !within(at_state, count) ||
        !within(at_deadline, count) || !within(at_short, count) ||
        __atomic_load_n(&words[at_state], __ATOMIC_RELAXED) != ticket) {
        return leave_in_python(block, given, arguments);
    }
    int64_t elapsed =
        now - __atomic_load_n(&words[at_deadline], __ATOMIC_RELAXED) + after_ns;
    __atomic_store_n(&words[at_state], ticket - 1, __ATOMIC_RELEASE);
    __atomic_store_n(&words[at_deadline], NONE, __ATOMIC_RELEASE);
    PyObject *old_ticket = FIELD(block, block_ticket), *old_guard = FIELD(slot, slot_guard);
    Py_INCREF(Py_None);
    Py_INCREF(Py_None);
    FIELD(block, block_ticket) = Py_None;
    FIELD(slot, slot_guard) = Py_None;
    if (elapsed < limit) {
        int64_t spent = __atomic_load_n(&words[at_short], __ATOMIC_RELAXED);
        __atomic_store_n(&words[at_short], spent + elapsed, __ATOMIC_RELAXED);
        Py_DECREF(old_ticket);
        Py_XDECREF(old_guard);
        Py_RETURN_NONE;
    }
    Py_INCREF(slot);
    Py_DECREF(old_ticket);
    Py_XDECREF(old_guard);
    PyObject *took = PyLong_FromLongLong(elapsed), *done = NULL;
    if (took != NULL) {
        done = PyObject_CallMethodObjArgs(slot, str_closed, Py_None, took, took, Py_None, NULL);
        Py_DECREF(took);
    }
    Py_DECREF(slot);
    if (done == NULL) {
        return abandoned(block);
    }
    Py_DECREF(done);
    Py_RETURN_NONE;
}

/* -- a block is made ---------------------------------------------------------------------------- */

static struct {
    PyObject *code; /* kept, so that no other one can take its address */
    int instruction;
    PyObject *scope;
} places[PLACES];

/* "{file}#{line}" of the caller, as a new reference; NULL, perhaps with an error, if it is not
   known. */
static PyObject *
place_of_caller(void)
{
    PyFrameObject *frame = PyEval_GetFrame();
    if (frame == NULL) {
        return NULL;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int instruction = PyFrame_GetLasti(frame);
    size_t at = (((uintptr_t)code >> 4) * 31 + (size_t)instruction) & (PLACES - 1);
    if (places[at].code == (PyObject *)code && places[at].instruction == instruction) {
        Py_DECREF(code);
        return Py_NewRef(places[at].scope);
    }
    PyObject *scope =
        PyUnicode_FromFormat("%U#%d", code->co_filename, PyFrame_GetLineNumber(frame));
    if (scope == NULL) {
        Py_DECREF(code);
        return NULL;
    }
    PyObject *old_code = places[at].code, *old_scope = places[at].scope;
    places[at].code = (PyObject *)code;
    places[at].instruction = instruction;
    places[at].scope = Py_NewRef(scope);
    Py_XDECREF(old_scope);
    Py_XDECREF(old_code);
    return scope;
}

static PyObject *
make_in_python(PyObject *type, PyObject *const *given, Py_ssize_t count, PyObject *keywords)
{
    PyObject *arguments = PyTuple_New(count), *named = NULL, *made = NULL;
    if (arguments == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyTuple_SET_ITEM(arguments, i, Py_NewRef(given[i]));
    }
    if (keywords != NULL) {
        named = PyDict_New();
        for (Py_ssize_t i = 0; named != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
            if (PyDict_SetItem(named, PyTuple_GET_ITEM(keywords, i), given[count + i]) < 0) {
                Py_CLEAR(named);
            }
        }
        if (named == NULL) {
            goto done;
        }
    }
    made = PyType_Type.tp_call(type, arguments, named);
done:
    Py_XDECREF(named);
    Py_DECREF(arguments);
    return made;
}

static PyObject *
make(PyObject *type, PyObject *const *given, size_t count_and_flag, PyObject *keywords)
{
    Py_ssize_t count = PyVectorcall_NARGS(count_and_flag);
    PyObject *after = count > 0 ? given[0] : NULL, *scope = count > 1 ? given[1] : NULL,
             *client = count > 2 ? given[2] : NULL;
    bool plain = count <= 3 && type == (PyObject *)block_type;
    for (Py_ssize_t i = 0; plain && keywords != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, i);
        PyObject **argument = name == str_scope    ? &scope
                              : name == str_client ? &client
                              : name == str_after  ? &after
                                                   : NULL;
        plain = argument != NULL && *argument == NULL; /* not given twice */
        if (plain) {
            *argument = given[count + i];
        }
    }
    double countdown;
    plain = plain && seconds(after, &countdown) && 0 <= countdown &&
            countdown <= LONGEST_SECONDS &&
            (scope == NULL || scope == Py_None || PyUnicode_CheckExact(scope));
    if (!plain) {
        return make_in_python(type, given, count, keywords);
    }
    if (scope == NULL || scope == Py_None) {
        scope = place_of_caller();
        if (scope == NULL) {
            return PyErr_Occurred() ? NULL : make_in_python(type, given, count, keywords);
        }
    } else {
        Py_INCREF(scope);
    }
    PyObject *block = block_type->tp_alloc(block_type, 0);
    if (block == NULL) {
        Py_DECREF(scope);
        return NULL;
    }
    FIELD(block, block_after) = Py_NewRef(after);
    FIELD(block, block_plain) = Py_NewRef(after);
    FIELD(block, block_scope) = scope;
    FIELD(block, block_client) = Py_NewRef(client == NULL ? Py_None : client);
    FIELD(block, block_warn_after) = Py_NewRef(Py_None);
    FIELD(block, block_ticket) = Py_NewRef(Py_None);
    FIELD(block, block_others) = Py_NewRef(Py_None);
    return block;
}

/* -- the class ---------------------------------------------------------------------------------- */

static PyMethodDef enter_method = {"__enter__", enter, METH_NOARGS, NULL};
static PyMethodDef leave_method = {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL,
                                   NULL};

static int
add_method(PyTypeObject *type, PyMethodDef *method)
{
    PyObject *descriptor = PyDescr_NewMethod(type, method);
    if (descriptor == NULL) {
        return -1;
    }
    int failed = PyObject_SetAttrString((PyObject *)type, method->ml_name, descriptor);
    Py_DECREF(descriptor);
    return failed;
}

static PyObject *
accelerated(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyTypeObject *expires, *slot;
    PyObject *module_names, *namespace;
    long long look_at;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O!L", &PyType_Type, &expires, &PyType_Type, &slot,
                          &PyDict_Type, &module_names, &PyDict_Type, &namespace, &look_at)) {
        return NULL;
    }
    if (block_type != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "there is an accelerated class already");
        return NULL;
    }
    if (find_fields(expires, block_fields) < 0 || find_fields(slot, slot_fields) < 0) {
        return NULL;
    }
    PyObject *type = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O)O", expires->tp_name,
                                           expires, namespace);
    if (type == NULL || add_method((PyTypeObject *)type, &enter_method) < 0 ||
        add_method((PyTypeObject *)type, &leave_method) < 0) {
        Py_XDECREF(type);
        return NULL;
    }
    enter_in_python = PyObject_GetAttrString((PyObject *)expires, "__enter__");
    exit_in_python = PyObject_GetAttrString((PyObject *)expires, "__exit__");
    if (enter_in_python == NULL || exit_in_python == NULL) {
        Py_DECREF(type);
        return NULL;
    }
    slot_type = (PyTypeObject *)Py_NewRef(slot);
    names = Py_NewRef(module_names);
    look = look_at;
    block_type = (PyTypeObject *)Py_NewRef(type);
    block_type->tp_vectorcall = make;
    return type;
}

static PyMethodDef functions[] = {
    {"accelerated", accelerated, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_blocks",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__blocks(void)
{
    static const struct {
        PyObject **string;
        const char *text;
    } strings[] = {
        {&str_abandon, "_abandon"},       {&str_after, "after"},
        {&str_by_scope, "by_scope"},      {&str_client, "client"},
        {&str_closed, "closed"},          {&str_configured, "_client"},
        {&str_scope, "scope"},            {&str_timer_slots, "timer_slots"},
        {&str_wake, "wake"},              {NULL, NULL},
    };
    for (size_t i = 0; strings[i].string != NULL; i++) {
        *strings[i].string = PyUnicode_InternFromString(strings[i].text);
        if (*strings[i].string == NULL) {
            return NULL;
        }
    }
    return PyModule_Create(&module);
}
