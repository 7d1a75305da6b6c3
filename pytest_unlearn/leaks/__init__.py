"""What a model gives away: matching, exact extraction, membership inference, prompt search."""
