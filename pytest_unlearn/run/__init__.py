"""A run without pytest: settings, data, models, measuring, and the result."""
