"""pyrunc-oci, an OCI runtime with runc's command line: one file a verb."""
