"""Making a model forget: the loop, and one short file per method."""
