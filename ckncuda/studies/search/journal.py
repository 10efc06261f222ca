"""The journal of a search: its trials, kept by Optuna in one file that outlives the process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ckncuda.errors import InvalidData
from ckncuda.model.system import System
from ckncuda.studies.search.leaderboard import Row

if TYPE_CHECKING:
    import optuna


class Journal:
    """Trials of a search, those of earlier processes included.

    Attributes
    ----------
    study : optuna.study.Study
    """

    def __init__(self, path: Path) -> None:
        self.study = open_study(path)

    def trial(self, number: int) -> "optuna.trial.FrozenTrial":
        """Return the trial of a number."""
        return self.study.get_trials(deepcopy=False)[number]

    def complete(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that were fitted on all images of the search."""
        return [t for t in self.ended() if t.state.name == "COMPLETE"]

    def ended(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that count: not those that were interrupted."""
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state.name in ("COMPLETE", "PRUNED")]

    def failure(self, number: int) -> str:
        """Return why a trial failed."""
        return str(self.trial(number).user_attrs.get("failure", "its process was ended"))

    def rows(self) -> list[Row]:
        """Return the leaderboard, the best first; of equal ones the quickest."""
        rows = [
            Row(
                t.number,
                float(t.value or 0.0),
                t.user_attrs["seconds"],
                t.user_attrs["n_features"],
                str(System.from_dict(t.user_attrs["system"])),
                t.user_attrs.get("preset"),
            )
            for t in self.complete()
        ]
        return sorted(rows, key=lambda row: (-row.accuracy, row.seconds, row.trial))

    def counts(self) -> dict[str, int]:
        """Count the trials that were completed, given up, and failed."""
        ended = self.ended()
        failed = sum("failure" in t.user_attrs or not t.intermediate_values for t in ended)
        complete = len(self.complete())
        return {"complete": complete, "given up": len(ended) - complete - failed, "failed": failed}

    def line(self, number: int) -> str:
        """Return a line about a trial that has ended."""
        trial, rows = self.trial(number), self.rows()
        system = System.from_dict(trial.user_attrs["system"])
        best = f"best {rows[0].accuracy:.4f}, trial {rows[0].trial}" if rows else "none complete yet"
        last = trial.last_step or 0
        accuracy = trial.intermediate_values[last]
        seconds = f"{trial.user_attrs['seconds_in_all']:.1f} s"
        if trial.state.name == "COMPLETE":
            found = f"{accuracy:.4f} in {seconds}"
        else:
            found = f"{accuracy:.4f} on {last} images in {seconds}, given up"
        preset = trial.user_attrs.get("preset")
        return f"trial {number}: {found} ({best}): {system}{f' (preset {preset})' if preset else ''}"


def open_study(journal: Path) -> "optuna.study.Study":
    """Open the trials in the folder.

    A trial that is still running there was ended together with its process, by no Ctrl-C: it is not tried
    again, since it may have been too large for the machine.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if journal.exists():  # a process that was ended in the midst of a line left half of it
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="ckn search",
            direction="maximize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError) as error:  # what is not JSON is a ValueError
        raise InvalidData(
            f"{journal} is damaged, or not the journal of a search ({error}): move {journal.parent} away, "
            "or give another --folder"
        ) from error
    end_running(study, optuna.trial.TrialState.PRUNED)
    return study


def end_running(study: "optuna.study.Study", state: "optuna.trial.TrialState") -> None:
    """End the trials that still run, in a state."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=state)
