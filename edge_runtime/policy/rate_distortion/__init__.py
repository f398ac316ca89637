"""The rate-distortion policy and the tables, rates and prices it decides by."""
