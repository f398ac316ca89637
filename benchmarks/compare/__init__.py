"""Side-by-side comparison with programs the user names: same checkpoint, same prompts, same memory cap.

    python -m benchmarks.compare run --help       measures cells and appends each to a JSON Lines file
    python -m benchmarks.compare report --help    writes docs/benchmarks.md and its plot from that file
    python -m benchmarks.compare goals --help     writes there which goals are met, and the README's line

How a cell is measured is written in docs/benchmarks.md. Peers are never built or fetched here.
"""
