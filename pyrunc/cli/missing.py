"""Docker's commands that do not exist here yet, and why; `pyrunc COMMAND` says so in one line, with exit code 125."""

NO_DAEMON = "there is no daemon to connect to yet; every command works by itself"
_NO_BUILD = "images cannot be built yet; import, commit and image bootstrap make them"
_NO_REGISTRY = "there are no registries yet; load, import and image bootstrap bring images"
_NO_NETWORK = "networks do not exist yet; run --network takes none, host and container:NAME"
_NO_SWARM = "there is no swarm: pyrunc is for one host"
_NO_STATS = "what containers use is not measured yet"

IMAGE = {"build": _NO_BUILD, "pull": _NO_REGISTRY, "push": _NO_REGISTRY}
CONTAINER = {"port": "ports cannot be published: networks do not exist yet", "stats": _NO_STATS}
SYSTEM = {"dial-stdio": NO_DAEMON}
VOLUME = {"update": _NO_SWARM}
ROOT = {
    "build": _NO_BUILD, "builder": _NO_BUILD, "buildx": _NO_BUILD,
    "checkpoint": "containers cannot be checkpointed yet",
    "compose": "there are no networks, and so no compositions of containers yet",
    "config": _NO_SWARM, "context": NO_DAEMON, "login": _NO_REGISTRY, "logout": _NO_REGISTRY, "manifest": _NO_REGISTRY,
    "network": _NO_NETWORK, "node": _NO_SWARM, "plugin": "there are no plugins", "port": CONTAINER["port"],
    "pull": _NO_REGISTRY, "push": _NO_REGISTRY, "search": _NO_REGISTRY, "secret": _NO_SWARM, "service": _NO_SWARM,
    "stack": _NO_SWARM, "stats": _NO_STATS, "swarm": _NO_SWARM, "trust": _NO_REGISTRY,
}  # fmt: skip
