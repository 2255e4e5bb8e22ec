"""A model's weights: where they lie, how they are read, loaded, named and hashed."""
