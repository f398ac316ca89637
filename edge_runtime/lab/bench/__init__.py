"""`hobbit bench`: repeated requests on one bundle, what they took, and the report about them."""
