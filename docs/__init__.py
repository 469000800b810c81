"""The documentation: hand-written pages, and what writes the others."""
