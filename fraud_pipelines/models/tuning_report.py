"""What people see of a tuning: a table of the best trials, figures, and what MLflow records of each trial."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fraud_pipelines import limits
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.plots import optimisation_history_figure, parameter_figure
from fraud_pipelines.models.tuning import FRAUD_WEIGHT, SPACE, Trial, Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMBALANCE = "imbalance"
SEARCHED = (*(item.name for item in SPACE), FRAUD_WEIGHT.name, "most_genuine_rows")


@dataclass(frozen=True)
class TrialRecord:
    """One trial as a run of MLflow."""

    name: str
    params: dict[str, Any]
    metrics: dict[str, float | None]
    tags: dict[str, str]


def searched(parameters: LearnerParameters) -> dict[str, Any]:
    """The settings that a tuning may change, with their values."""
    return {name: getattr(parameters, name) for name in SEARCHED}


def trial_record(trial: Trial, tags: dict[str, str]) -> TrialRecord:
    """Parameters, values and state of one trial; its name sorts by number."""
    return TrialRecord(
        name=f"trial-{trial.number:04d}",
        params={IMBALANCE: trial.imbalance, **trial.parameters.as_dict()},
        metrics={
            "average_precision": trial.value,
            **{f"block_{number}_average_precision": value for number, value in enumerate(trial.fold_values, start=1)},
            "seconds": trial.seconds,
        },
        tags={**tags, "trial": str(trial.number), "state": trial.state},
    )


def outcome_params(tuning: Tuning) -> dict[str, Any]:
    """What a tuning started from, what was best and what was chosen, for its run in MLflow."""
    picked = {"base": 0, "best": tuning.best, "chosen": tuning.chosen}
    return {
        "trials": len(tuning.trials),
        **{
            f"{kind}_{name}": value
            for kind, number in picked.items()
            for name, value in (("trial", number), *searched(tuning.trials[number].parameters).items())
        },
    }


def outcome_metrics(tuning: Tuning) -> dict[str, float | None]:
    """Values of base, best and chosen, and how sure the gain is."""
    return {
        "base_average_precision": tuning.base.value,
        "best_average_precision": tuning.trials[tuning.best].value,
        "chosen_average_precision": tuning.trials[tuning.chosen].value,
        "gain": tuning.gain,
        "gain_p_value": tuning.p_value,
    }


def ranked(tuning: Tuning, most: int = 10) -> list[Trial]:
    """The best complete trials, best first; the base is always among them."""
    complete = sorted(
        (trial for trial in tuning.trials if trial.value is not None),
        key=lambda trial: (-(trial.value or 0.0), trial.number),
    )
    top = complete[:most]
    return top if tuning.base in top else [*top[:-1], tuning.base]


def best_trials(tuning: Tuning) -> list[dict[str, str | float | int]]:
    """The best trials, one record per row, best first, with the settings that were searched."""
    return [
        {
            "trial": trial.number,
            "is": " and ".join(
                word for word, number in (("base", 0), ("chosen", tuning.chosen)) if trial.number == number
            ),
            "average_precision": round(trial.value or 0.0, 4),
            IMBALANCE: trial.imbalance,
            **{name: round(value, 4) for name, value in searched(trial.parameters).items()},
        }
        for trial in ranked(tuning)
    ]


def verdict(tuning: Tuning) -> str:
    """One sentence: what was chosen, and why."""
    best, base = tuning.trials[tuning.best].value, tuning.base.value
    if tuning.best == 0:
        return f"The base stays: none of {len(tuning.trials)} trials ranks better (average precision {base:.4f})."
    found = f"trial {tuning.best} has average precision {best:.4f}, the base {base:.4f} ({tuning.gain:+.1%}"
    chance = "too few days to tell chance" if tuning.p_value is None else f"p {tuning.p_value:.3f}"
    words = f"{found}; {chance}, limit {limits.TUNING_P_VALUE})"
    return f"Chosen: {words}." if tuning.chosen else f"The base stays: {words}."


def tuning_figures(tuning: Tuning) -> dict[str, "Figure"]:
    """File name -> figure: how the search went, and each parameter against what it gave."""
    complete = [trial for trial in tuning.trials if trial.value is not None]
    numbers = [item.name for item in (*SPACE, FRAUD_WEIGHT)]
    return {
        "trials.png": optimisation_history_figure(
            {trial.number: trial.value for trial in tuning.trials}, base=tuning.base.value or 0.0
        ),
        "parameters.png": parameter_figure(
            {
                **{name: [getattr(trial.parameters, name) for trial in complete] for name in numbers},
                IMBALANCE: [trial.imbalance for trial in complete],
                "most_genuine_rows": [f"{trial.parameters.most_genuine_rows:,}" for trial in complete],
            },
            [trial.value or 0.0 for trial in complete],
            logarithmic=[item.name for item in (*SPACE, FRAUD_WEIGHT) if item.is_logarithmic],
        ),
    }
