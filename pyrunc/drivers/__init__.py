"""What can be done in several ways: where snapshots live. Drivers do not import each other."""
