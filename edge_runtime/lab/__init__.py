"""Measuring and judging: bench, simulator, quality figures, checkable tasks."""
