"""What a model gives away: matching, exact extraction, membership, and a search for prompts."""
