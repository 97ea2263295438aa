"""What a search for label errors asks for: one run for each fold."""

from __future__ import annotations

from collections.abc import Sequence

from flows.run import RunRequest


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
        request.pipeline_config()
    return requests
