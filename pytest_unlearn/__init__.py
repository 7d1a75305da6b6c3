"""Test whether a code language model has forgotten personal data, and can still code."""

__version__ = "0.1.0"
