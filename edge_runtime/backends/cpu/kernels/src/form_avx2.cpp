#include "form_impl.hpp"

HOBBIT_FORM_TABLE(kFormsAvx2)
