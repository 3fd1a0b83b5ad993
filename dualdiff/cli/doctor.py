"""`dualdiff doctor`: what this machine can do."""

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, AsJson, ProjectDir


def doctor(project: ProjectDir = HERE, as_json: AsJson = False) -> None:
    """Say what this machine has for dualdiff, what is missing, and how to get it."""
    from dualdiff.inspection.doctor import examine

    checks = examine(project)
    missing = [check for check in checks if check.state == "missing"]
    if as_json:
        console.say_json({"ok": not missing, "checks": [vars(check) for check in checks]})
    else:
        console.table(("", "state", "found"), [(check.name, check.state, check.found) for check in checks])
        for check in checks:
            if check.hint:
                console.say(f"{check.name}: {check.hint}")
        console.say(f"{len(missing)} missing" if missing else "all that is needed is here")
    if missing:
        raise typer.Exit(1)
