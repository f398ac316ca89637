#define HOBBIT_LANES 8
#define HOBBIT_ENCODE encode_panel_avx2
#include "encode_impl.hpp"
