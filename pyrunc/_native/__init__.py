"""The native core: one module per kernel facility, and pyrunc-init."""
