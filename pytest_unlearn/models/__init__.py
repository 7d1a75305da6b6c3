"""Finding, loading and running causal language models."""
