"""`hobbit bringup`: everything worth knowing about a new device, step by step, into one file."""
