"""Why a stage runs: how the key it needs differs from the nearest complete one, in a person's terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hemaflow.infra.results.fingerprint import MODULE_LEVEL, Fingerprint
from hemaflow.infra.results.manifest import KeyInputs, Manifest

MAX_CAUSES = 6
"""How many causes a reason names before it counts the rest."""
OTHER_VERSION = "another version of hemaflow"
"""The one cause that stands for all differences of code where most files have other names."""


def explain(inputs: KeyInputs, complete: Iterable[Manifest], runs: Mapping[str, str] | None = None) -> str:
    """Return why `inputs` is not complete, against the nearest of the complete results of that stage.

    Args:
        inputs: What the key is made of that is not complete.
        complete: Complete results of that stage, those to be preferred first.
        runs: Key → the run that used it last.
    """
    nearest = min(
        ((list(causes(manifest.inputs, inputs)), manifest) for manifest in complete),
        key=lambda pair: (OTHER_VERSION in pair[0], len(pair[0]) + _num_not_shared(pair[1].inputs, inputs)),
        default=None,
    )
    if nearest is None:
        return "never built in this store"
    found, manifest = nearest
    run = (runs or {}).get(manifest.key)
    return f"{in_short(found)} (since {f'run {run}' if run else manifest.key[:8]})"


def in_short(causes: Sequence[str]) -> str:
    """Return the first few causes as a phrase, and how many more there are."""
    if not causes:
        return "nothing that can be named"
    more = f"; and {len(causes) - MAX_CAUSES} more" if len(causes) > MAX_CAUSES else ""
    return "; ".join(causes[:MAX_CAUSES]) + more


def causes(old: KeyInputs, new: KeyInputs) -> Iterator[str]:
    """Yield what differs between two keys of one stage: code first, then config, parents, libraries.

    Where another version of hemaflow made the old key, the files and the fields that only one of them has are
    not named.
    """
    other_version = _is_other_version(old.code, new.code)
    if other_version:
        yield OTHER_VERSION
    else:
        yield from _code_changes(old.code, new.code)
    changes = dict(config_changes(old.config, new.config))
    # A field that only one key has: of another version, or it has an effect by the change of another field.
    of_both = {field: values for field, values in changes.items() if None not in values}
    for field, (before, now) in (of_both if other_version or of_both else changes).items():
        yield f"{new.stage}.{field} {_short(before)} → {_short(now)}"
    if old.names != new.names:
        yield f"the kind of the data {', '.join(old.names) or 'unknown'} → {', '.join(new.names)}"
    for parent in sorted(old.parents.keys() | new.parents.keys()):
        if old.parents.get(parent) != new.parents.get(parent):
            yield "the data changed" if parent == "source" else f"the result of {parent} changed"
    for library in sorted(old.libraries.keys() | new.libraries.keys()):
        if old.libraries.get(library) != new.libraries.get(library):
            yield f"{library} {old.libraries.get(library)} → {new.libraries.get(library)}"


def _num_not_shared(old: KeyInputs, new: KeyInputs) -> int:
    """Return how many fields only one of two configs has: an ensemble shares few with a training."""
    return sum(None in values for _, values in config_changes(old.config, new.config))


def _is_other_version(old: Fingerprint, new: Fingerprint) -> bool:
    """Return whether most of the files of the smaller fingerprint are not in the other one."""
    return 2 * len(old.keys() & new.keys()) < min(len(old), len(new))


def _code_changes(old: Fingerprint, new: Fingerprint) -> Iterator[str]:
    for file in sorted(old.keys() | new.keys()):
        before, now = old.get(file), new.get(file)
        if before is None:
            yield f"{file} is now used"
        elif now is None:
            yield f"{file} is no longer used"
        elif before != now:
            changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            yield f"{file} changed ({', '.join(map(_definition, changed))})"


def config_changes(
    old: Mapping[str, object], new: Mapping[str, object]
) -> Iterator[tuple[str, list[object]]]:
    """Yield each field (`fine_tuning.epochs`) that differs between two configs, with both values."""
    before, now = _flat(old), _flat(new)
    for field in sorted(before.keys() | now.keys()):
        if before.get(field) != now.get(field):
            yield field, [before.get(field), now.get(field)]


def _definition(name: str) -> str:
    return name if name in (MODULE_LEVEL, "file") else f"definition {name}"


def _flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
