"""What can be wrong with the `linux.resources` of a container.

ValueError
├── InvalidResources      the document contradicts itself, the OCI specification or the kernel's rules
└── UnsupportedResource   it is well formed, but this host has nothing that could honour it
"""


class InvalidResources(ValueError):
    """A value that no host accepts; the message begins with the name of the field."""


class UnsupportedResource(ValueError):
    """A value that this host cannot honour; the message names the field and what is missing."""
