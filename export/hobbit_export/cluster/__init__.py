"""Export on an existing distributed engine: steps as tasks on machines that share a storage, the same bytes."""
