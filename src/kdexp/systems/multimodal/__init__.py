"""Image and text, several labels per pair."""
