"""The systems: each folder holds one kind of data with its models and its synthetic stand-in."""
