"""The leaderboard of a comparison: what each member scored, over its seeds, and the order of the members."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict, Field

from hemaflow.flows.runs.formatting import duration, size
from hemaflow.flows.runs.record import RunRecord
from hemaflow.tasks.evaluate.metrics import CONFIDENCE
from hemaflow.tasks.report.leaderboard_plot import Point, draw

HEADINGS = (
    "member",
    "clean",
    "heavy mix",
    "MedMNIST-C",
    "parameters",
    "training",
    "images/s",
    "submission",
)
SCORES = {"clean": "clean", "heavy_mix": "heavy mix", "medmnistc": "MedMNIST-C"}
"""Scores of a member → what they are called."""


class Score(BaseModel):
    """An accuracy on the test split, averaged over seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float
    interval: tuple[float, float] = Field(
        description="95 %: over the seeds (Student's t), or over the images (bootstrap) where there is one."
    )
    accuracies: list[float] = Field(description="Of each seed.")

    @classmethod
    def over(cls, records: Sequence[RunRecord], entry: str) -> Score | None:
        """Return the score of some runs on one entry of their metrics; None where one has no such entry."""
        found = [record.measured.entry(entry) for record in records]
        accuracies = [each.accuracy for each in found if each and each.accuracy is not None]
        if len(accuracies) < len(found):
            return None
        if found[0] and len(accuracies) == 1:
            interval = found[0].intervals["accuracy"]
            return cls(accuracy=accuracies[0], interval=interval, accuracies=accuracies)
        from scipy.stats import t

        half = t.ppf((1 + CONFIDENCE) / 2, len(accuracies) - 1) * stdev(accuracies) / len(accuracies) ** 0.5
        centre = mean(accuracies)
        interval = (max(0.0, centre - float(half)), min(1.0, centre + float(half)))
        return cls(accuracy=centre, interval=interval, accuracies=accuracies)

    def __str__(self) -> str:
        """Return it for a person: `0.9846 (0.9794 to 0.9900)`."""
        return "{:.4f} ({:.4f} to {:.4f})".format(self.accuracy, *self.interval)


class Member(BaseModel):
    """One row of the leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    runs: list[str] = Field(description="One for each seed.")
    clean: Score | None = Field(description="On the images as they are, averaged over the views.")
    heavy_mix: Score | None = Field(description="On the heavy mix, averaged over the views.")
    medmnistc: Score | None = Field(description="Mean over the corruptions of MedMNIST-C.")
    num_parameters: int
    train_seconds: float | None = Field(description="Of one seed, when it was trained.")
    images_per_second: float = Field(description="That the submission names once it is ready.")
    submission_bytes: int


def rank(members: Sequence[Member]) -> list[Member]:
    """Return the members, best first: by the heavy mix where all were measured on it, else as they are."""
    by_heavy_mix = all(member.heavy_mix for member in members)

    def accuracy(member: Member) -> float:
        score = member.heavy_mix if by_heavy_mix else member.clean
        return score.accuracy if score else -1.0

    return sorted(members, key=accuracy, reverse=True)


def plot(members: Sequence[Member]) -> bytes:
    """Return the plot of the accuracies, a PNG."""
    drawn = []
    for member in members:
        scores = {title: getattr(member, name) for name, title in SCORES.items()}
        points = {title: Point(score.accuracy, *score.interval) for title, score in scores.items() if score}
        drawn.append((member.name, points))
    return draw(drawn)


def rows(members: Sequence[Member]) -> list[list[str]]:
    """Return the cells of the table under HEADINGS."""
    return [
        [
            member.name,
            *(
                str(score) if score else "not measured"
                for score in (member.clean, member.heavy_mix, member.medmnistc)
            ),
            f"{member.num_parameters:,}",
            duration(member.train_seconds) if member.train_seconds is not None else "",
            f"{member.images_per_second:.0f}",
            size(member.submission_bytes),
        ]
        for member in members
    ]
