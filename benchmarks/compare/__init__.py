"""Side-by-side comparison with a llama.cpp build the user names: same checkpoint, same prompts, same memory cap.

    python -m benchmarks.compare run --help       measures cells and appends each to a JSON Lines file
    python -m benchmarks.compare report --help    writes docs/benchmarks.md and its plot from that file

How a cell is measured is written in docs/benchmarks.md. The peer is never built or fetched here.
"""
