"""Policies around policies: they watch or record and pass the decision on."""
