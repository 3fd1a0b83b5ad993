"""What the data stages cost, in turn: scan and rescan, encode, and the loader that batches come from.

    python benchmarks/data.py > benchmarks/data.md          all; or one: python benchmarks/data.py loader

Each part is a script of its own beside this one, in a process of its own.
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("scan", "encode", "loader")


def main() -> None:
    """Run the parts that are named, or all."""
    wanted = sys.argv[1:] or PARTS
    for part in wanted:
        if part not in PARTS:
            sys.exit(f"there is no part {part}: they are {', '.join(PARTS)}")
        sys.stdout.flush()
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{part}.py"))], check=True)
        print()


if __name__ == "__main__":
    main()
