#define HOBBIT_LANES 4
#define HOBBIT_ENCODE encode_panel_base
#include "encode_impl.hpp"
