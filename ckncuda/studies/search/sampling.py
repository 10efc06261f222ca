"""Choices of what to try next: a function of the trials so far and of a seed, and of nothing else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ckncuda.errors import InvalidData, pass_on_interruption
from ckncuda.model.system import System
from ckncuda.studies.search.journal import Trial
from ckncuda.studies.search.space import Range, SearchSpace

if TYPE_CHECKING:
    import optuna


def suggested(space: SearchSpace, trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Return the parameters of the trial that follows on others, as Optuna's sampler suggests them.

    Nothing of the sampler outlives the call, so that a search that goes on tries what it would have tried.

    Raises
    ------
    InvalidData
        Optuna does not take the trials.
    """
    import optuna

    next_seed = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=next_seed))
    try:
        study.add_trials([_told(space, trial) for trial in trials])
    except Exception as error:  # Optuna checks values in many places, each with errors of its own
        pass_on_interruption(error)
        raise InvalidData(
            f"the trials so far are none of this search ({error}): give another --folder"
        ) from error
    trial = study.ask()
    space.draw(trial)
    return dict(trial.params)


def system_of(space: SearchSpace, params: dict[str, Any]) -> System:
    """Return the system that parameters stand for; raise `ValueError` where one is missing."""
    import optuna

    return space.draw(optuna.trial.FixedTrial(params))


def check_parameters(space: SearchSpace, trial: Trial) -> None:
    """Raise `ValueError` for parameters that the space does not have."""
    for name, value in trial.params.items():
        parameter = space.parameters.get(name)
        if isinstance(parameter, tuple):
            known = any(type(value) is type(each) and value == each for each in parameter)
        else:
            of_type = isinstance(value, int if parameter and parameter.step == 1 else float)
            known = parameter is not None and of_type and not isinstance(value, bool) and value in parameter
        if not known:
            raise ValueError("the search space has no such parameter, or no such value of it")
    if trial.preset is None:
        try:
            system_of(space, dict(trial.params))
        except (ValueError, TypeError) as error:
            raise ValueError("its parameters are no system") from error


def _told(space: SearchSpace, trial: Trial) -> "optuna.trial.FrozenTrial":
    """Return a trial as the sampler learns from it; one that was given up or failed is pruned."""
    import optuna

    state = optuna.trial.TrialState
    complete = trial.state == "complete"
    return optuna.trial.create_trial(
        state=state.COMPLETE if complete else state.PRUNED,
        value=trial.accuracy if complete else None,
        params=dict(trial.params),
        distributions={name: _distribution(space, name) for name in trial.params},
        intermediate_values=dict(trial.accuracies),
    )


def _distribution(space: SearchSpace, name: str) -> "optuna.distributions.BaseDistribution":
    """Return a parameter of the space as Optuna knows it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    parameter = space.parameters[name]
    if not isinstance(parameter, Range):
        return CategoricalDistribution(parameter)
    if parameter.step == 1:
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
