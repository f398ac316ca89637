"""What every layer stands on: errors, sizes, strict loading, the model in our own words. Imports nothing of ours."""
