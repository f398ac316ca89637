"""Verbs of the `hobbit` command, a module each: `add_arguments(parser)` and `main(args) -> exit code`."""
