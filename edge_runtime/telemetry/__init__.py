"""What was measured: spans, reports. Nothing here changes what the engine does."""
