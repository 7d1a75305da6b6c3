"""People, their attributes, and the code snippets that hold them."""
