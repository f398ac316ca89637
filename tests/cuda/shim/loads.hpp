// Counts the loads of a kernel inside watched ranges: how often each byte was read, and how many 32-byte sectors.
#pragma once
#include <cstdint>

void note_load(uint64_t address, uint32_t bytes, const void* site, uint32_t thread);
void finish_block_loads();  // the requests of a block are complete
