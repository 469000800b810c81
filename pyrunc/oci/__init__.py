"""`pyrunc-oci`: an OCI runtime for other engines, one file a verb."""
