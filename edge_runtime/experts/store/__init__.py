"""Where experts are read from: files of a bundle, cut into reads."""
