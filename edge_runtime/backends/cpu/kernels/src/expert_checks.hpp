// What the expert kernels reject. The trunk refuses with another kind of error.
#pragma once
#include <stdexcept>
#include <string>

namespace hobbit {

struct Shape;

[[noreturn]] inline void reject(const std::string& message) { throw std::invalid_argument(message); }

// Returns the shape if the kernels can run it; throws std::invalid_argument.
Shape checked(const Shape& shape);

}  // namespace hobbit
