"""Images: what is read from an OCI layout and becomes a root directory."""
