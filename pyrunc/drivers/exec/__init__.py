"""Exec drivers: who makes a container of its documents, signals it, and clears away what it has left."""
