// Contexts that are entered some fifty times a token: a method in Python costs more than the two clock readings.
#pragma once

#include <Python.h>

namespace hobbit {

// HostSpan(name): adds up the nanoseconds of its `with` blocks; `note`, if set, is called as (name, start_ns, end_ns).
PyObject* make_host_span_type();

// Untimed(): a context that does nothing.
PyObject* make_untimed_type();

}  // namespace hobbit
