"""Which resident expert goes first when room is needed. One rule a file."""
