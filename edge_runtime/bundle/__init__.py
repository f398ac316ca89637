"""The bundle contract: the one place that reads and writes the format of docs/format.md."""
