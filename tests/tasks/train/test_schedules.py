from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from hemaflow.tasks.train.schedules import Best, Plateau, cosine_with_warmup


def test_the_cosine_rises_then_falls_to_nothing() -> None:
    factors = [cosine_with_warmup(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == pytest.approx(1.0)
    assert factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] < 0.001
    assert cosine_with_warmup(0, 10, 0) == 1.0


def test_a_plateau_halves_the_rate_down_to_its_floor() -> None:
    plateau = Plateau(patience=2, factor=0.5, min_learning_rate=1e-4)
    scales = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.95, 0.95, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6):
        plateau.update(loss, 1e-3)
        scales.append(plateau.scale)
    assert scales == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.1, 0.1, 0.1]


def test_a_plateau_never_raises_a_rate_that_begins_below_its_floor() -> None:
    plateau = Plateau(patience=1, factor=0.5, min_learning_rate=1e-4)
    for _ in range(3):
        plateau.update(1.0, 1e-5)
    assert plateau.scale == 1


def test_the_best_has_the_best_accuracy_then_the_least_loss() -> None:
    best = Best(patience=2)
    assert best.update(1, 0.9, 0.5)
    assert best.update(2, 0.9, 0.4)
    assert not best.update(3, 0.9, 0.45)
    assert not best.should_stop
    assert not best.update(4, 0.8, 0.1)
    assert best.should_stop
    assert (best.epoch, best.accuracy) == (2, 0.9)


def test_without_patience_training_is_never_stopped() -> None:
    best = Best(patience=0)
    for epoch in range(50):
        best.update(epoch, 0.5, 1.0)
    assert not best.should_stop


def test_the_state_survives_json() -> None:
    best, plateau = Best(3), Plateau(2, 0.5, 1e-6)
    best.update(1, 0.7, 0.8)
    plateau.update(0.8, 1e-3)
    assert Best(**json.loads(json.dumps(asdict(best)))) == best
    assert Plateau(**json.loads(json.dumps(asdict(plateau)))) == plateau
