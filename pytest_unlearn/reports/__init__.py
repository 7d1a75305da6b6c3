"""What a run shows: the terminal summary and its pieces."""
