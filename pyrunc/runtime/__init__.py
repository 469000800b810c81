"""From an OCI spec to a running process: the plan, its walkers, and the sandbox."""
