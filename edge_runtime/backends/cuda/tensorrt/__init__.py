"""The trunk as TensorRT engines: a bundle's graphs lowered to what a version's parser takes, built on the device."""
