from __future__ import annotations

import json

import pytest

from hemaflow.infra.errors import ObjectAltered, ObjectMissing, StoreError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, load_manifest
from hemaflow.infra.store.local import LocalStore


def inputs(stage: str = "augment", **config: object) -> KeyInputs:
    return KeyInputs(stage=stage, config=config, parents={"ingest": "0" * 64}, code={}, libraries={})


def test_the_key_of_known_inputs_is_what_it_always_was() -> None:
    assert (
        inputs(copies=3, layers=["GridMask"]).key
        == "b85020909719219e52899d13cfee7cafcfa8600e41a36b5bfc8f8946dbab0f97"
    )


def test_nothing_is_complete_before_the_commit(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    draft.put("one", b"1", num_records=1)
    assert load_manifest(store, "augment", draft.key) is None
    manifest = draft.commit(num_examples=1)
    found = load_manifest(store, "augment", draft.key)
    assert found is not None
    assert found[0] == manifest
    assert manifest.read(store, "one") == b"1"


def test_a_result_is_the_same_to_who_made_it_and_to_who_reads_it(store: LocalStore) -> None:
    """Down to the order of its keys: what is made of it must not depend on who made it."""
    draft = Draft(store, inputs(b=1, a={"d": 1, "c": 2}))
    manifest = draft.commit(z=1, a=(1, 2))
    found = load_manifest(store, "augment", draft.key)
    assert found is not None
    assert repr(manifest) == repr(found[0])


def test_the_digest_is_of_the_content_and_not_of_the_key(store: LocalStore) -> None:
    first, second = (Draft(store, inputs(seed=seed)) for seed in (1, 2))
    for draft in (first, second):
        draft.put("one", b"same")
    one, two = first.commit(n=1), second.commit(n=1)
    assert one.key != two.key
    assert one.digest == two.digest
    third = Draft(store, inputs(seed=3))
    third.put("one", b"other")
    assert third.commit(n=1).digest != one.digest


def test_the_second_to_commit_gets_the_first_result_and_leaves_no_objects(store: LocalStore) -> None:
    first, second = Draft(store, inputs()), Draft(store, inputs())
    first.put("model", b"first")
    second.put("model", b"second")
    second.put("history", b"same")
    first.put("history", b"same")
    winner = first.commit()
    assert second.commit() == winner
    objects = {stored.location for stored in winner.objects}
    assert set(store.list("stages/")) == objects | {f"stages/augment/{first.key}/manifest.json"}


def test_a_result_replaces_the_one_it_was_to_replace(store: LocalStore) -> None:
    old = Draft(store, inputs())
    old.put("model", b"old")
    old.commit()
    _, tag = load_manifest(store, "augment", old.key)  # type: ignore[misc]
    new = Draft(store, inputs(), replaces=tag)
    new.put("model", b"new")
    assert new.commit().read(store, "model") == b"new"
    late = Draft(store, inputs(), replaces=tag)
    late.put("model", b"late")
    assert late.commit().read(store, "model") == b"new"


def test_a_part_is_complete_once_and_only_while_its_object_is_whole(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    part = draft.commit_part(draft.put("shard", b"bytes"))
    again = Draft(store, inputs())
    assert again.committed_part("shard") == part
    store.put(part.location, b"bytez")
    assert again.committed_part("shard") is None
    assert again.committed_part("shard") is None


def test_work_is_kept_until_the_commit(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    assert draft.kept("checkpoint") is None
    draft.keep("checkpoint", b"epoch 1")
    draft.keep("checkpoint", b"epoch 2")
    assert Draft(store, inputs()).kept("checkpoint") == b"epoch 2"
    draft.commit()
    assert draft.kept("checkpoint") is None


def test_two_objects_cannot_have_one_name(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    draft.put("one", b"1")
    with pytest.raises(StoreError, match="are called 'one'"):
        draft.put("one", b"2")


def test_an_altered_object_and_an_unknown_name_are_named(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    draft.put("one", b"1")
    manifest = draft.commit()
    store.put(manifest.object("one").location, b"x")
    with pytest.raises(ObjectAltered, match="changed after it was recorded"):
        manifest.read(store, "one")
    with pytest.raises(ObjectMissing, match="holds no 'two'"):
        manifest.read(store, "two")


def test_a_manifest_of_another_format_is_refused(store: LocalStore) -> None:
    draft = Draft(store, inputs())
    draft.commit()
    name = f"stages/augment/{draft.key}/manifest.json"
    document = json.loads(store.get(name)) | {"unknown": 1}
    store.put(name, json.dumps(document).encode())
    with pytest.raises(StoreError, match="cannot be read"):
        load_manifest(store, "augment", draft.key)
