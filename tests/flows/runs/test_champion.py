from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from helpers.results import Call, run
from hemaflow.flows.runs.champion import (
    MAX_HISTORY,
    POINTER,
    Champion,
    current,
    promote,
    require_champion,
    rollback,
)
from hemaflow.flows.runs.find import find_run, trained_model
from hemaflow.flows.runs.record import RunRecord
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.infra.errors import PromotionLost, StoreError, UserError
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore

PROMOTING = """
import sys
from hemaflow.flows.runs.champion import promote
from hemaflow.flows.runs.find import find_run
from hemaflow.infra.errors import PromotionLost
from hemaflow.infra.store.open import open_store
url, run, tag = sys.argv[1:]
store = open_store(url)
record = find_run(store, run)
print("ready", flush=True)
sys.stdin.readline()
try:
    promote(store, record, "race", tag)
    print("won")
except PromotionLost as error:
    print(str(error).splitlines()[0])
"""


def seeded(store: Store, seed: int) -> RunRecord:
    """A run of its own, with a model of its own."""
    return run(store, {"train": {"seed": seed}}, content=str(seed).encode())


def copies(store: Store, count: int) -> list[RunRecord]:
    """Runs that used the same results."""
    first = run(store)
    made = [first.model_copy(update={"run": f"20260101-000000-{number:03}-aaaa"}) for number in range(count)]
    for record in made:
        record.save(store)
    return made


def tag(store: Store) -> str:
    now = current(store)
    return now.tag if now else ""


def named(champion: Champion) -> list[str]:
    """The runs of champion and history; those that were rolled back from with a star."""
    entries = [champion.entry(), *champion.history]
    return [entry.run + ("*" if entry.rolled_back else "") for entry in entries]


def test_a_promotion_is_one_object_with_its_history(any_store: Store) -> None:
    first, second = seeded(any_store, 1), seeded(any_store, 2)
    assert current(any_store) is None
    promote(any_store, first, "the first")
    promote(any_store, second, "accuracy +0.012", tag(any_store))
    now = require_champion(any_store)
    assert (now.run, now.reason, now.reference) == (second.run, "accuracy +0.012", second.key("ingest"))
    assert [entry.run for entry in now.history] == [first.run]
    document = json.loads(any_store.get(POINTER))
    assert {"run", "promoted", "reason", "reference", "history"} <= document.keys()
    assert document["promoted"].endswith("+00:00")
    assert "tag" not in document
    assert list(any_store.list("pointers/")) == [POINTER]


def test_who_saw_another_champion_is_told_which_one_it_is(any_store: Store) -> None:
    first, second, third = copies(any_store, 3)
    promote(any_store, first, "")
    seen = tag(any_store)
    promote(any_store, second, "", seen)
    with pytest.raises(PromotionLost, match=f"Another promotion came first: run {second.run}"):
        promote(any_store, third, "", seen)
    with pytest.raises(PromotionLost, match=second.run):
        promote(any_store, third, "")  # saw none
    assert require_champion(any_store).run == second.run


@pytest.mark.parametrize("first", [True, False])
def test_of_many_threads_one_wins(any_store: Store, first: bool) -> None:
    records = copies(any_store, 13)
    if not first:
        promote(any_store, records.pop(), "before")
    seen, said, barrier = tag(any_store), list[str](), threading.Barrier(12)

    def race(record: RunRecord) -> None:
        barrier.wait()
        try:
            promote(any_store, record, "race", seen)
            said.append(record.run)
        except PromotionLost:
            said.append("")

    threads = [threading.Thread(target=race, args=(record,)) for record in records[:12]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, said)) == [False] * 11 + [True]
    now = require_champion(any_store)
    assert now.run == max(said)
    assert len(now.history) == (0 if first else 1)


@pytest.mark.slow
def test_of_two_processes_one_wins_and_the_other_names_it(any_store: Store) -> None:
    before, *records = copies(any_store, 3)
    promote(any_store, before, "before")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTING, any_store.url, record.run, tag(any_store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for record in records
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    winner = records[said.index("won")].run
    assert sorted(said) == [f"Another promotion came first: run {winner}.", "won"]
    assert named(require_champion(any_store)) == [winner, before.run]


def test_a_second_rollback_goes_on_to_the_one_before(any_store: Store) -> None:
    a, b, c, d = copies(any_store, 4)
    for record in (a, b, c):
        promote(any_store, record, f"reason {record.run}", tag(any_store))
    assert named(rollback(any_store)) == [b.run, f"{c.run}*", a.run]
    assert named(rollback(any_store)) == [a.run, f"{b.run}*", f"{c.run}*"]
    now = require_champion(any_store)
    assert now.restored
    assert now.reason == f"reason {a.run}"
    with pytest.raises(UserError, match=f"no champion before run {a.run}"):
        rollback(any_store)
    assert require_champion(any_store) == now
    # What was rolled back from is passed over later too.
    promote(any_store, d, "", tag(any_store))
    assert named(rollback(any_store)) == [a.run, f"{d.run}*", f"{b.run}*", f"{c.run}*"]


def test_a_rollback_does_not_undo_a_promotion_that_comes_between(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = copies(any_store, 3)
    promote(any_store, a, "")
    promote(any_store, b, "", tag(any_store))
    swap = any_store.swap

    def late(*arguments: Any) -> bool:
        monkeypatch.setattr(any_store, "swap", swap)
        promote(any_store, c, "", tag(any_store))
        return swap(*arguments)

    monkeypatch.setattr(any_store, "swap", late)
    with pytest.raises(PromotionLost, match=c.run):
        rollback(any_store)
    assert named(require_champion(any_store)) == [c.run, b.run, a.run]


def test_the_history_is_bounded(store: LocalStore) -> None:
    records = copies(store, MAX_HISTORY + 3)
    for record in records:
        promote(store, record, "", tag(store))
    now = require_champion(store)
    assert [now.run, *(entry.run for entry in now.history)] == [
        record.run for record in reversed(records[2:])
    ]


def test_a_run_that_is_not_whole_is_refused(store: LocalStore) -> None:
    whole = run(store)
    for status in ("running", "failed", "interrupted"):
        with pytest.raises(UserError, match=f"cannot be champion: it is {status}"):
            promote(store, whole.model_copy(update={"status": status}), "")
    with pytest.raises(UserError, match="it did not come to the end of train"):
        promote(store, run(store, until_stage="augment"), "")
    with pytest.raises(UserError, match="this store has no record of it"):
        promote(store, whole.model_copy(update={"run": "20260101-000000-000-ffff"}), "")
    folder = f"stages/train/{whole.key('train')}/"
    model = next(name for name in store.list(folder) if name.endswith("model.keras"))
    (store.root / model).write_bytes(b"x")
    with pytest.raises(UserError, match=r"train is damaged: model.keras has 1 bytes instead of"):
        promote(store, whole, "")
    store.delete([f"{folder}manifest.json"])
    with pytest.raises(UserError, match="the result of train is not in the store"):
        promote(store, whole, "")
    assert current(store) is None


def test_the_champion_is_not_promoted_again(store: LocalStore) -> None:
    champion = run(store)
    promote(store, champion, "")
    with pytest.raises(UserError, match="is the champion already"):
        promote(store, champion, "", tag(store))


def test_a_damaged_former_champion_is_not_gone_back_to(store: LocalStore) -> None:
    first, second = seeded(store, 1), seeded(store, 2)
    promote(store, first, "")
    promote(store, second, "", tag(store))
    store.delete(store.list(f"stages/train/{first.key('train')}/"))
    with pytest.raises(UserError, match=f"Run {first.run} cannot be champion"):
        rollback(store)
    assert require_champion(store).run == second.run


def test_garbage_is_nothing_that_champion_or_history_need(any_store: Store) -> None:
    records = [seeded(any_store, seed) for seed in range(4)]
    promote(any_store, records[0], "")
    promote(any_store, records[1], "", tag(any_store))
    found = collect_garbage(any_store, keep_runs=1, grace_seconds=-5.0)
    assert found.runs == [records[2].run]
    for kept in (0, 1, 3):
        find_run(any_store, records[kept].run)
    assert rollback(any_store).run == records[0].run
    assert verify(any_store, deep=True)[0] == []


def test_a_run_that_is_promoted_while_garbage_is_looked_for_stays(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = seeded(any_store, 1), seeded(any_store, 2)
    entries = any_store.entries

    def slow(prefix: str) -> Any:
        if prefix == "stages/" and current(any_store) is None:
            promote(any_store, old, "by hand")
        return entries(prefix)

    monkeypatch.setattr(any_store, "entries", slow)
    assert collect_garbage(any_store, keep_runs=1, grace_seconds=-5.0).runs == []
    assert find_run(any_store, "champion") == old
    promote_again = seeded(any_store, 1)
    assert {stage.state for stage in promote_again.stages} == {"reused"}


def test_garbage_is_no_reference_set_that_the_champion_stands_on(any_store: Store) -> None:
    source = seeded(any_store, 1)
    key = source.key("ingest")
    config = {"ingest": {"reference": f"ingest:{key}"}}
    first = run(any_store, config, content=b"new data")
    assert first.needs["reference"] == key
    promote(any_store, first, "")
    assert require_champion(any_store).reference == key
    any_store.delete([f"runs/{source.run}.json"])
    found = collect_garbage(any_store, grace_seconds=-5.0)
    assert f"train {source.key('train')}" in found.results
    assert f"ingest {key}" not in found.results
    assert any_store.get_tagged(f"stages/ingest/{key}/manifest.json") is not None
    assert any_store.get_tagged(f"stages/train/{source.key('train')}/manifest.json") is None
    assert verify(any_store)[0] == []


def test_a_pointer_that_cannot_be_read_is_said_to_be_one(store: LocalStore) -> None:
    store.put(POINTER, b'{"runs": []}')
    with pytest.raises(StoreError, match=r"pointer cannot be read(.|\n)*pointers/champion.json"):
        current(store)


def test_the_champion_is_a_run_wherever_one_is_named(store: LocalStore) -> None:
    with pytest.raises(UserError, match="There is no champion in this store"):
        find_run(store, "champion")
    facts = {"classes": ["a", "b"], "image_size_pixels": 8, "tta_views": ["identity"]}
    first = run(store, facts=facts)
    run(store, {"train": {"seed": 1}}, facts=facts)
    promote(store, first, "")
    assert find_run(store, "champion") == first
    model = trained_model(store, "champion")
    assert f"stages/train/{first.key('train')}/" in str(model.path)
    assert model.classes == ["a", "b"]


def test_the_commands(hemaflow: Call, store: LocalStore) -> None:
    code, _, err = hemaflow("champion")
    assert code == 2
    assert "hemaflow champion promote RUN" in err
    first, second = seeded(store, 1), seeded(store, 2)
    assert hemaflow("champion", "promote", first.run)[0] == 0
    code, out, _ = hemaflow("champion", "promote", second.run, "--reason", "better [by far]", "--json")
    assert code == 0
    assert json.loads(out)["run"] == second.run
    for command in (["champion"], ["champion", "show"]):
        code, out, _ = hemaflow(*command)
        assert code == 0
        said = [" ".join(line.split()) for line in out.splitlines()]
        assert said[0].startswith(f"champion run {second.run}, promoted 20")
        assert "because better [by far]" in said
        assert f"before it run {first.run}" in said
        assert "test accuracy 0.9000" in said
        assert json.loads(hemaflow(*command, "--json")[1])["history"][0]["run"] == first.run
    out = hemaflow("champion", "rollback")[1]
    assert f"before it run {second.run}, rolled back" in " ".join(out.split())
    rows = hemaflow("champion", "history")[1].splitlines()
    assert [row.split()[0] for row in rows[1:]] == [first.run, second.run]
    assert "champion" in rows[1]
    assert "rolled back" in rows[2]
    assert [entry["run"] for entry in json.loads(hemaflow("champion", "history", "--json")[1])] == [
        first.run,
        second.run,
    ]
    assert hemaflow("show", "champion")[1].startswith(f"run {first.run} completed")
    code, _, err = hemaflow("champion", "--json", "history")
    assert code == 2
    assert "hemaflow champion history" in err
    assert hemaflow("champion", "rollback")[0] == 2
