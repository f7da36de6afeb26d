"""Taxi trips on a road graph: the next road, and how long it takes to get there."""
