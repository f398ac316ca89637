"""The rate-distortion policy and the tables, use rates and prices it decides by."""
