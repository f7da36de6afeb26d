"""A system of one's own, outside kdexp: points on rings, told apart by a small network."""
