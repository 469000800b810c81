"""Record what runc answers: `python -m tests.oci.record [SCENARIO...]`, as root; see play.py."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.oci.play import FIXTURES, SCENARIOS, Answer, Player, lines


def record(scenario: str, program: list[str], name: str) -> list[dict[str, object]]:
    """The answers of *program* to each line of *scenario* that is not a preparation."""
    from tests.oci.live import remove_cgroups

    work = Path(tempfile.mkdtemp(prefix="pyrunc-oci-"))
    cgroup = work.name
    player = Player(program, name, work, cgroup)
    answers: list[dict[str, object]] = []
    try:
        for line in lines(scenario):
            answer: Answer | None = player.play(line)
            if answer is not None:
                answers.append({"line": line, **answer})
    finally:
        for container in sorted((work / "root").glob("*")):
            player.run("delete", "--force", container.name)
        remove_cgroups(cgroup)
        shutil.rmtree(work)
    return answers


def main() -> None:
    """Write the answers of the named scenarios, or of all."""
    for scenario in sys.argv[1:] or SCENARIOS:
        answers = record(scenario, ["runc"], "runc")
        (FIXTURES / f"{scenario}.json").write_text(
            json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
