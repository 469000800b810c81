"""OCI runtime documents: defaults and validation."""
