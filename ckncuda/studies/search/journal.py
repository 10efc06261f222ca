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

    A trial that is still running in the file was ended together with its process, by no Ctrl-C: it is not
    tried again, since it may have been too large for the machine.

    Attributes
    ----------
    study : optuna.study.Study
    """

    def __init__(self, path: Path) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        if path.exists():  # a process that was ended in the midst of a line left half of it
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        try:
            self.study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="ckn search",
                direction="maximize",
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:  # what is not JSON is a ValueError
            raise InvalidData(
                f"{path} is damaged, or not the journal of a search ({error}): move {path.parent} away, "
                "or give another --folder"
            ) from error
        self.end_running(optuna.trial.TrialState.PRUNED)

    def trials(self) -> "list[optuna.trial.FrozenTrial]":
        """Return all trials."""
        trials: list[optuna.trial.FrozenTrial] = self.study.get_trials(deepcopy=False)
        return trials

    def end_running(self, state: "optuna.trial.TrialState") -> None:
        """End the trials that still run, in a state."""
        for trial in self.trials():
            if trial.state.name == "RUNNING":
                self.study.tell(trial.number, state=state)

    def complete(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that were fitted on all images of the search."""
        return [t for t in self.ended() if t.state.name == "COMPLETE"]

    def ended(self) -> "list[optuna.trial.FrozenTrial]":
        """Return the trials that count: not those that were interrupted."""
        return [t for t in self.trials() if t.state.name in ("COMPLETE", "PRUNED")]

    def failure(self, number: int) -> str:
        """Return why a trial failed."""
        return str(self.trials()[number].user_attrs.get("failure", "its process was ended"))

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
        trial, rows = self.trials()[number], self.rows()
        system = System.from_dict(trial.user_attrs["system"])
        best = f"best {rows[0].accuracy:.4f}, trial {rows[0].trial}" if rows else "none complete yet"
        last = trial.last_step or 0
        seconds = trial.user_attrs["seconds_in_all"]
        on, end = ("", "") if trial.state.name == "COMPLETE" else (f" on {last} images", ", given up")
        found = f"{trial.intermediate_values[last]:.4f}{on} in {seconds:.1f} s{end}"
        preset = trial.user_attrs.get("preset")
        return f"trial {number}: {found} ({best}): {system}{f' (preset {preset})' if preset else ''}"
