"""Attacks that try to bring forgotten values back: what a verdict has to survive."""
