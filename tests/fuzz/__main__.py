"""Mutations of one reader's input, or of all; or one mutation again.

PYTHONPATH=tests python -m fuzz npz --fuzz 20000             # of one reader; without a name, of all
PYTHONPATH=tests python -m fuzz npz --only 1234 --write OUT  # one again; its files are kept in OUT
"""

import argparse
import sys
import tempfile
from pathlib import Path

from fuzz.campaign import SEED, campaign, drawn, write
from fuzz.readers import READERS
from nursery import Nursery


def _command() -> int:
    """Run the command line; the status is 1 if anything was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reader", nargs="*", choices=[*READERS, []], help="by default all")
    parser.add_argument("--fuzz", type=int, default=20_000, help="mutations of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, help="number of the only mutation to try")
    parser.add_argument("--write", type=Path, help="folder in which to keep the files of --only")
    given = parser.parse_args()
    nursery, found = Nursery(), False
    for reader in given.reader or READERS:
        count, first = (given.fuzz, given.first) if given.only is None else (1, given.only)
        if given.write and given.only is not None:
            with tempfile.TemporaryDirectory() as scratch:
                corpus = READERS[reader].seeds(Path(scratch))
            mutated = READERS[reader].mutation(drawn(reader, given.only, given.seed), corpus)
            given.write.mkdir(parents=True, exist_ok=True)
            write(mutated.files, given.write)
            print(f"wrote {given.write}; opened is {mutated.opened} {dict(mutated.how) or ''}")
        told = campaign(nursery, reader, count, first, given.seed)
        print(told, flush=True)
        found = found or bool(told.findings)
    nursery.close()
    return int(found)


if __name__ == "__main__":
    sys.exit(_command())
