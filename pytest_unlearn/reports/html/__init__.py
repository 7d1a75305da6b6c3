"""The report `html`: a single self-contained file."""
