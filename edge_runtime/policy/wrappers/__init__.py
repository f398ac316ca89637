"""Policies around policies: they watch or record, and pass decisions on."""
