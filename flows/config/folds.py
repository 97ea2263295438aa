"""What a search for label errors asks for: one run for each fold."""

from __future__ import annotations

from collections.abc import Sequence

from hemaflow.flows.config.request import RunRequest
from hemaflow.infra.errors import ConfigError
from hemaflow.tasks.core.result_names import RESULT, RUN


def fold_requests(
    recipe: str, *, data: str = "", changes: Sequence[str] = (), folds: int, store: str = ""
) -> list[RunRequest]:
    """Return the run of each fold. Raises ConfigError, before anything is trained."""
    # Spoiled images tell nothing of labels.
    own = (*changes, "evaluate.robustness=none", f"ingest.num_folds={folds}")
    requests = [
        RunRequest(
            recipe=recipe,
            data=data,
            changes=(*own, f"ingest.fold={fold}"),
            until_stage="evaluate",
            store=store,
        )
        for fold in range(folds)
    ]
    for request in requests:
        train = request.pipeline_config().train
        if train.ensemble_of or train.initial_weights.startswith((RUN, RESULT)):
            raise ConfigError(
                "A model of another run may have learnt from the images whose labels are to be judged.",
                expected="each fold trained from scratch, from imagenet or from a file",
                received=f"train.initial_weights={train.initial_weights}, "
                f"train.ensemble_of of {len(train.ensemble_of)}",
                remedy="Leave out these changes.",
            )
    return requests
