"""The model that the package ships, and the recipe that trained it."""
