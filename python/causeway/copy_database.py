"""`causeway copy-database`: what one control node has stored becomes the beginning of several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from causeway.model.database_url import BadUrl, check_database_url
from causeway.premises import data_dir_of_our_own
from causeway.settings import StartError
from causeway.store.copying import copy
from causeway.store.database import Database, StoreError

_TOLD = ("zones", "applications", "access_rules", "firewall_lists", "tokens", "edge_certificates")


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy, and say what; answer the exit status."""
    parser = argparse.ArgumentParser(prog="causeway copy-database")
    parser.add_argument("--data-dir", type=Path, default=Path("causeway-data"))
    parser.add_argument("--database", required=True)
    read = parser.parse_args(arguments)
    try:
        check_database_url(read.database)
    except BadUrl as error:
        parser.error(f"--database: {error}")
    file = read.data_dir / "causeway.sqlite3"
    if not file.exists():
        parser.error(f"--data-dir {read.data_dir}: there is no {file.name} in it")
    try:
        with data_dir_of_our_own(read.data_dir):  # nobody changes anything meanwhile
            copied = _copied(file, read.database)
    except (StartError, StoreError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print("copied " + ", ".join(f"{copied[name]} {name.replace('_', ' ')}" for name in _TOLD))
    print(f"{file} is as it was. Start the first node with the same --data-dir, which has the keys of the network.")
    return 0


def _copied(file: Path, url: str) -> dict[str, int]:
    source = Database.open(file)
    try:
        target = Database.open(url)
        try:
            return copy(source, target)
        finally:
            target.close()
    finally:
        source.close()


if __name__ == "__main__":
    sys.exit(main())
