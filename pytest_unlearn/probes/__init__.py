"""Prompts that try to make a model give a record away."""
