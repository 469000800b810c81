"""The command line: Docker's commands, flags, texts and exit codes."""
