"""The leaderboard: scores over seeds, the order, the cells, the plot; and what is compared."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.results import Call, Silent
from hemaflow.flows.config.contenders import contenders
from hemaflow.flows.prefect_ui import pages
from hemaflow.flows.runs.leaderboard import HEADINGS, Member, Score, plot, rank, rows
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.workflows.comparison import compare
from hemaflow.flows.workflows.host import DirectHost
from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore


def record(accuracy: float, **more: float) -> RunRecord:
    entries = {"test_tta": accuracy, **more}
    metrics = {
        entry: {
            "num_examples": 10,
            "accuracy": value,
            "intervals": {"accuracy": [value - 0.02, value + 0.02]},
        }
        for entry, value in entries.items()
    }
    return RunRecord(run="r", started="", data="", recipe="demo", metrics=metrics)


def member(name: str, clean: float, heavy_mix: float | None) -> Member:
    def score(accuracy: float) -> Score:
        return Score(accuracy=accuracy, interval=(accuracy - 0.01, accuracy + 0.01), accuracies=[accuracy])

    return Member(
        name=name,
        runs=["r1", "r2"],
        clean=score(clean),
        heavy_mix=None if heavy_mix is None else score(heavy_mix),
        medmnistc=None,
        num_parameters=1234567,
        train_seconds=75,
        images_per_second=812.4,
        submission_bytes=5_400_000,
    )


def test_one_seed_has_the_interval_of_its_images() -> None:
    score = Score.over([record(0.9)], "test_tta")
    assert score == Score(accuracy=0.9, interval=(0.88, 0.92), accuracies=[0.9])
    assert str(score) == "0.9000 (0.8800 to 0.9200)"


def test_several_seeds_have_the_interval_of_students_t() -> None:
    score = Score.over([record(0.90), record(0.92), record(0.94)], "test_tta")
    assert score is not None
    assert score.accuracy == pytest.approx(0.92)
    # t(0.975, 2) = 4.3027; the deviation is 0.02.
    assert score.interval == pytest.approx((0.92 - 0.04968, 0.92 + 0.04968), abs=1e-5)


def test_what_one_run_was_not_measured_on_has_no_score() -> None:
    assert Score.over([record(0.9, test_heavy_mix=0.7), record(0.9)], "test_heavy_mix") is None


def test_the_order_is_that_of_the_heavy_mix_where_all_have_it() -> None:
    one, other = member("one", 0.99, 0.6), member("other", 0.97, 0.9)
    assert rank([one, other]) == [other, one]
    assert rank([one, member("third", 0.98, None)])[0] == one


def test_the_cells_and_the_page_tell_all() -> None:
    [cells] = rows([member("laptop", 0.985, 0.62)])
    assert cells == [
        "laptop",
        "0.9850 (0.9750 to 0.9950)",
        "0.6200 (0.6100 to 0.6300)",
        "not measured",
        "1,234,567",
        "75 s",
        "812",
        "5.4 MB",
    ]
    assert len(cells) == len(HEADINGS)
    page = pages.leaderboard([member("laptop", 0.985, 0.62)], b"png")
    assert "| 1 | laptop |" in page
    assert "(data:image/png;base64,cG5n)" in page
    assert "- laptop: r1, r2" in page


def test_the_plot_grows_with_the_members() -> None:
    few, many = (
        Image.open(io.BytesIO(plot([member(f"member {k}", 0.9, 0.5) for k in range(n)]))) for n in (1, 6)
    )
    assert few.format == "PNG"
    assert many.height > few.height + 150


def test_every_recipe_meets_every_backbone_and_seed() -> None:
    found = contenders(
        ["demo", "laptop"],
        ["cnn", "mobilenetv2"],
        seeds=2,
        data="cells.zip",
        changes=["train.batch_size=8"],
    )
    assert [one.name for one in found] == [
        "demo, cnn",
        "demo, mobilenetv2",
        "laptop, cnn",
        "laptop, mobilenetv2",
    ]
    assert found[1].requests[1].changes == (
        "train.backbone=mobilenetv2",
        "train.batch_size=8",
        "train.seed=1",
    )
    varied = contenders(["demo"], policies=["none", "flips"])
    assert [one.name for one in varied] == ["demo, none", "demo, flips"]
    assert varied[1].requests[0].changes == ("policy=flips", "train.seed=0")
    averaged = varied[1].averaging(["first", "second"])
    assert averaged.name == "demo, flips, ensemble of 2"
    assert averaged.requests[0].pipeline_config().train.ensemble_of == ("run:first", "run:second")
    [alone] = contenders(["demo"])
    assert (alone.name, alone.requests[0].changes) == ("demo", ("train.seed=0",))


@pytest.mark.parametrize(
    "asked",
    [
        {"policies": ("no-such",)},
        {"backbones": ("no-such",)},
        {"vary": ("no-such.field=1",)},
        {"changes": ("no-such.field=1",)},
    ],
)
def test_what_is_asked_of_a_comparison_reaches_the_contenders(
    asked: dict[str, Any], store: LocalStore
) -> None:
    """Each is refused there, before anything is trained."""
    with pytest.raises(ConfigError, match=r"no-such"):
        compare(DirectHost(Silent(), Settings()), **asked, store=store.url)
    assert not list(store.list(""))


def test_fields_vary() -> None:
    found = contenders(
        ["demo"], policies=["robust"], vary=["augment.copies=1, 2", "train.head_units=[[64],[]]"]
    )
    assert [one.name for one in found] == [
        "demo, robust, augment.copies=1, train.head_units=[64]",
        "demo, robust, augment.copies=1, train.head_units=[]",
        "demo, robust, augment.copies=2, train.head_units=[64]",
        "demo, robust, augment.copies=2, train.head_units=[]",
    ]
    config = found[2].requests[0].pipeline_config()
    assert (config.augment.copies, config.train.head_units) == (2, (64,))


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("augment.copies", "has no values"),
        ("augment.copies=[]", "has no values"),
        ("augment.copys=1,2", "Did you mean"),
        ("augment.copies=1,many", "not valid"),
        ("copies=1", "cannot be read"),
        ("train.seed=1,2", "--seeds"),
    ],
)
def test_a_field_that_cannot_vary_is_told(vary: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        contenders(["demo"], vary=[vary])


def test_steps_can_be_made_equal_whatever_a_policy_copies() -> None:
    found = contenders(
        ["laptop"],
        policies=["none", "randaugment", "robust"],
        equal_steps=True,
        changes=["train.fine_tuning.epochs=14", "train.transfer.epochs=1", "train.warmup_epochs=0.7"],
    )
    trained = [one.requests[0].pipeline_config().train for one in found]
    # 1, 7 and 9 records of each image: 14, 14 and 18 of them in all, the whole epochs nearest to 14.
    assert [train.fine_tuning.epochs for train in trained] == [14, 2, 2]
    assert [train.transfer.epochs for train in trained] == [1, 1, 1]
    assert [train.warmup_epochs for train in trained] == pytest.approx([0.7, 0.1, 0.7 / 9], abs=1e-6)


def test_a_contender_that_cannot_be_is_told_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cnn'"):
        contenders(["demo"], ["cnn", "cnnn"])
    with pytest.raises(ConfigError, match="no recipe"):
        contenders(["demmo"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"changes": ["train.seed=7"]}, "--seeds"),
        ({"backbones": ["cnn"], "changes": ["train.backbone=resnet50"]}, "given twice"),
        ({"policies": ["flips"], "changes": ["policy=none"]}, "given twice"),
        ({"vary": ["train.batch_size=1,2"], "changes": ["train.batch_size=3"]}, "given twice"),
        ({"ensembles": True}, "nothing to average"),
        ({"equal_steps": True}, "equal already"),
        ({"equal_steps": True, "vary": ["train.batch_size=1,2"]}, "equal already"),
        ({"recipes": ["demo", "laptop"]}, "Name the data"),
    ],
)
def test_what_would_be_undone_in_silence_is_told(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        contenders(**{"recipes": ["demo"]} | asked)


def test_what_is_said_field_by_field_counts_whatever_the_policy() -> None:
    found = contenders(["demo"], policies=["randaugment", "robust"], changes=["augment.copies=2"])
    assert [one.requests[0].pipeline_config().augment.copies for one in found] == [2, 2]


def test_a_plot_that_cannot_be_written_is_told_before_anything_is_trained(
    hemaflow: Call, tmp_path: Path
) -> None:
    code, _, said = hemaflow("compare", "--recipes", "demo", "--plot", str(tmp_path / "none" / "plot.png"))
    assert code == 2
    assert "no such folder" in said
