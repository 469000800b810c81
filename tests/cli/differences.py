"""Where the answers about containers differ from docker's on purpose: the line, pyrunc's exit code, and the reason."""

_SOONER = "refused when it is created, where Docker 20.10 refuses it at the start, or never"
_NAMED = "refused by name"
_OWN = "pyrunc's own words"
_NO_REGISTRY = "there are no registries"
_PATHS = "the words have the path of a layer of Docker's"
_NO_REASON = "runc fails when it looks for a file that is covered then; nothing here needs it"
_WHOLE = "keys of the API v1.51; see test_inspect_containers.py"
_NEWER = "the words of newer versions of Docker"

# line -> (exit code, reason)
CONTAINERS = {
    "create --network none --blkio-weight 5 beta true": (1, _SOONER),
    "create --network none --log-opt max-size=x beta true": (1, _SOONER),
    "create --network none --log-opt max-file=x beta true": (1, _SOONER),
    "create --network none --log-opt max-file=0 beta true": (1, _SOONER),
    "create --network none --log-opt max-size=1k --log-opt max-file=-1 beta true": (1, _SOONER),
    "create --network none --log-opt max-size=-1 beta true": (1, _SOONER),
    "create --network none --ipc wrong beta true": (1, _SOONER),
    "create --network none --ipc container: beta true": (1, _SOONER),
    "create --network container:nobody beta true": (1, _SOONER),
    "create --network none -h 'a b' beta true": (1, _SOONER),
    "create --network none --tmpfs /t:wrong beta true": (1, _SOONER),
    "create --network none --storage-opt size=1g beta true": (125, _NAMED),
    "create --network none --health-interval 1us beta true": (125, _NAMED),
    "create --network none --link taken:x beta true": (125, _NAMED),
    "create --network none --memory-swappiness 50 --oom-kill-disable --name swap beta true": (
        0,
        "no warning",
    ),
    "create --network none missing true": (1, _NO_REGISTRY),
    "start nodevice": (1, _OWN),
    "start nogroup": (1, "a small letter at the beginning"),
    "start nouser": (1, _OWN),
    "run --network none missing true": (125, _NO_REGISTRY),
    "inspect -s -f '{{.SizeRw}} {{.SizeRootFs}}' exited": (
        0,
        "Docker counts the lengths of symbolic links too",
    ),
    "run --detach-keys wrong-x --network none beta true": (1, _OWN),
    "ps -f exited=x": (1, _NEWER),
    "attach three < yes": (6, "Docker's client may be gone before the answer comes"),
    "ps -a -f before=nobody": (1, _NEWER),
    "inspect created": (0, _WHOLE),
    "inspect exited": (0, _WHOLE),
    "inspect runs": (0, _WHOLE),
    "inspect hosted": (0, _WHOLE),
    "inspect logless": (0, _WHOLE),
    "container inspect created exited": (0, _WHOLE),
    "inspect --type container runs nobody": (1, _WHOLE),
    "inspect -f '{{json .State}}' created": (0, "the order of the keys"),
    "update --memory-swap 50m bounded": (1, _OWN),
    "run --rm --network none -v one:/proc beta true": (125, _PATHS),
    "run --rm --network none -v one:/proc/sys beta true": (125, _PATHS),
    "run --rm --network none -v /tmp:/proc beta true": (125, _PATHS),
    "run --rm --network none -v /tmp:/proc/uptime beta true": (125, _OWN),
    "run --rm --network none --tmpfs /proc beta true": (0, _NO_REASON),
    "run --rm --network none -v one:/dev beta true": (0, _NO_REASON),
    "run --rm --network none -w /etc/passwd beta true": (125, _OWN),
}
