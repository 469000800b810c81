"""What can be wrong with the `linux.resources` of a container, as one file of names for the cgroup modules."""

from pyrunc.errors import InvalidSpec, Unsupported


class InvalidResources(InvalidSpec):
    """A value that no host accepts; the message begins with the name of the field."""


class UnsupportedResource(Unsupported, ValueError):
    """A value that this host cannot honour; the message names the field and what is missing."""
