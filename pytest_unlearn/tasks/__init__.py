"""Programming tasks: the bundled bank and the reader of a user's own task file."""
