#include "host_span.hpp"

#include <cstddef>
#include <cstdint>
#include <ctime>

namespace hobbit {
namespace {

struct Span {
  PyObject_HEAD
  int64_t ns, started;
  PyObject* name;
  PyObject* note;  // nullptr: nobody records
};

Span* as_span(PyObject* self) { return reinterpret_cast<Span*>(self); }

// The clock of time.perf_counter_ns, so that spans lie beside what Python timed.
int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject* name = nullptr;
  if (!PyArg_ParseTuple(args, "U:HostSpan", &name)) return nullptr;
  auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
  PyObject* self = allocate(type, 0);  // all zeros
  if (self == nullptr) return nullptr;
  Py_INCREF(name);
  as_span(self)->name = name;
  return self;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(as_span(self)->note);
  return 0;
}

int clear(PyObject* self) {
  Py_CLEAR(as_span(self)->note);
  return 0;
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(as_span(self)->name);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyObject* enter(PyObject* self, PyObject*) {
  as_span(self)->started = now_ns();
  Py_RETURN_NONE;
}

PyObject* leave(PyObject* self, PyObject* const*, Py_ssize_t) {
  Span* span = as_span(self);
  const int64_t end = now_ns(), started = span->started;
  span->ns += end - started;
  if (span->note == nullptr) Py_RETURN_NONE;
  PyObject* note = span->note;
  Py_INCREF(note);  // it may take itself away
  PyObject* said = PyObject_CallFunction(
      note, "OLL", span->name, static_cast<long long>(started), static_cast<long long>(end));
  Py_DECREF(note);
  if (said == nullptr) return nullptr;
  Py_DECREF(said);
  Py_RETURN_NONE;
}

PyObject* get_ns(PyObject* self, void*) { return PyLong_FromLongLong(as_span(self)->ns); }

PyObject* get_note(PyObject* self, void*) {
  PyObject* note = as_span(self)->note;
  if (note == nullptr) Py_RETURN_NONE;
  Py_INCREF(note);
  return note;
}

int set_note(PyObject* self, PyObject* value, void*) {
  PyObject* before = as_span(self)->note;
  if (value == Py_None) value = nullptr;
  Py_XINCREF(value);
  as_span(self)->note = value;
  Py_XDECREF(before);
  return 0;
}

PyObject* nothing(PyObject*, PyObject*) { Py_RETURN_NONE; }
PyObject* nothing_to_leave(PyObject*, PyObject* const*, Py_ssize_t) { Py_RETURN_NONE; }

// A method that takes its arguments as an array; the table's type does not know that form.
PyCFunction as_method(PyObject* (*call)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call));
}

}  // namespace

PyObject* make_host_span_type() {
  static PyMethodDef methods[] = {{"__enter__", enter, METH_NOARGS, nullptr},
                                  {"__exit__", as_method(leave), METH_FASTCALL, nullptr},
                                  {nullptr, nullptr, 0, nullptr}};
  static PyGetSetDef values[] = {{"ns", get_ns, nullptr, nullptr, nullptr},
                                 {"note", get_note, set_note, nullptr, nullptr},
                                 {nullptr, nullptr, nullptr, nullptr, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(make)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                                {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
                                {Py_tp_clear, reinterpret_cast<void*>(clear)},
                                {Py_tp_methods, methods},
                                {Py_tp_getset, values},
                                {0, nullptr}};
  static PyType_Spec spec = {"edge_runtime.base._native.HostSpan", sizeof(Span), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  return PyType_FromSpec(&spec);
}

PyObject* make_untimed_type() {
  static PyMethodDef methods[] = {{"__enter__", nothing, METH_NOARGS, nullptr},
                                  {"__exit__", as_method(nothing_to_leave), METH_FASTCALL, nullptr},
                                  {nullptr, nullptr, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, nullptr}};
  static PyType_Spec spec = {"edge_runtime.base._native.Untimed", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, slots};
  return PyType_FromSpec(&spec);
}

}  // namespace hobbit
