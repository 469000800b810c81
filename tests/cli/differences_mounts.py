"""Where the answers about volumes, mounts, cp and top differ from docker's on purpose: as in differences.py."""

_ANY_ORDER = "Docker has mounts in any order"
_ID = "the words have the path of a layer of Docker's"
_OWN = "pyrunc's own words"
_LETTER = "Docker's client takes a single letter for a drive of Windows"
_PLACE = "the place of a volume begins with a slash"
_NUMBERS = "numbers of processes"
_CSV = "Docker's client says what goes wrong in itself"
_NOT_HERE = "Docker's client asks a registry for what is not found, whatever it is"
_MOUNT = "range .Mounts"
_FORMAT = '{{.Type}} {{.Driver}} {{.Destination}} {{printf "%q" .Mode}} {{.RW}} {{printf "%q" .Propagation}}'
_NAMED = _FORMAT.replace("{{.Driver}}", "{{.Name}} {{.Driver}}")
_WHOLE = _FORMAT.replace("{{.Driver}}", "{{.Name}} {{.Source}} {{.Driver}}")
_RUN = "run --rm --network none"

# line -> (exit code, reason)
MOUNTS = {
    f"{_RUN} -v link:/bin/sh beta true": (125, _ID),
    f"{_RUN} -v data:/etc/passwd beta true": (125, _OWN),
    f"{_RUN} -v file:/etc/passwd:nocopy beta true": (125, _OWN),
    f"{_RUN} -v : beta true": (125, _PLACE),
    f"{_RUN} -v relative beta true": (125, _PLACE),
    f"{_RUN} -v a:/v beta true": (125, _LETTER),
    f"{_RUN} --mount source=x,target=/v,volume-driver=wrong beta true": (125, _NOT_HERE),
    f"{_RUN} --volume-driver wrong -v drv2:/v beta true": (125, _NOT_HERE),
    f"{_RUN} --mount type=image,source=beta,target=/v beta true": (125, "refused by name"),
    f"inspect -f '{{{{{_MOUNT}}}}}{_FORMAT} {{{{end}}}}' source": (0, _ANY_ORDER),
    f"inspect -f '{{{{{_MOUNT}}}}}{_FORMAT} {{{{end}}}}' from": (0, _ANY_ORDER),
    f"inspect -f '{{{{{_MOUNT}}}}}{_FORMAT.replace('{{.Driver}} ', '')} {{{{end}}}}' from-ro": (
        0,
        _ANY_ORDER,
    ),
    f"inspect -f '{{{{{_MOUNT}}}}}{_NAMED}|{{{{end}}}}' bindv": (
        0,
        _ANY_ORDER,
    ),
    f"inspect -f '{{{{{_MOUNT}}}}}{_WHOLE}|{{{{end}}}}' bindspec": (
        0,
        _ANY_ORDER,
    ),
    "inspect -f '{{json .HostConfig.Binds}}' bindv": (0, _ANY_ORDER),
    "ps -a -f name=bindv --format '{{.Mounts}} {{.LocalVolumes}}'": (0, _ANY_ORDER),
    f"{_RUN} -v deep:/deep/er/est beta busybox ls -ld /deep/er": (0, "the time"),
    "volume prune -f --filter label=keep": (0, "Docker 20.10 prunes volumes with names too"),
    "cp one:/tree/a/ x": (1, _ID),
    "cp one:/tree/a/. x": (1, _ID),
    "cp - one:/out < noise.tar": (1, _OWN),
    "cp a1 one:/out/file/": (1, _CSV),
    "cp a1 one:": (1, _CSV),
    "top live -o pid,args": (0, _NUMBERS),
    "top live -eo pid,comm": (0, _NUMBERS),
    "top live -o comm,pid": (0, _NUMBERS),
    "top live o args": (1, "what ps shows depends on the terminal"),
}
