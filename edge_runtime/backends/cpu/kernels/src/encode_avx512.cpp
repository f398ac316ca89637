#define HOBBIT_LANES 16
#define HOBBIT_ENCODE encode_panel_avx512
#include "encode_impl.hpp"
