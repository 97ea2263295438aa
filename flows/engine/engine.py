"""Whether a stage must run, and why: look up, verify, decide. Nothing here loads TensorFlow or Prefect.

The same `decide` serves `hemaflow plan`, which stops there, and the flow, which goes on to do the work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hemaflow.flows.config.stages import STAGE_NAMES, STAGES, FromStage, PipelineConfig, StageName
from hemaflow.flows.engine.named_models import with_models_found
from hemaflow.flows.runs.record import KnownRuns
from hemaflow.flows.runs.why import causes, explain, in_short
from hemaflow.infra.errors import StoreError, UserError
from hemaflow.infra.results.draft import Draft, Progress, silent
from hemaflow.infra.results.fingerprint import Fingerprint, code_fingerprint, library_versions, words
from hemaflow.infra.results.manifest import KeyInputs, Manifest, StoredObject, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store, in_parallel
from hemaflow.tasks.core.stage import StageConfig
from hemaflow.tasks.sources.registry import open_source

MAX_COMPARED = 64
"""How many earlier results of a stage a new key is compared with, the newest."""


@dataclass(frozen=True)
class Decision:
    """What is to happen with one stage.

    Attributes:
        stage: The stage.
        state: `run` or `reuse`.
        reason: Why, in words.
        inputs: What its key is made of; None in a plan where a parent runs first.
        manifest: The complete result, where it is reused.
        replaces: Entity tag of the complete manifest that a new result is to replace, or "".
        damaged: Names of recorded objects that are missing or altered.
        intact: Recorded objects of a damaged result that are as they were.
        forget: Whether unfinished work of an earlier run is to be dropped.
    """

    stage: StageName
    state: Literal["run", "reuse"]
    reason: str
    inputs: KeyInputs | None = None
    manifest: Manifest | None = None
    replaces: str = ""
    damaged: tuple[str, ...] = ()
    intact: tuple[StoredObject, ...] = field(default=(), repr=False)
    forget: bool = False

    def draft(self, store: Store, progress: Progress = silent) -> Draft:
        """Return the draft in which the stage is to be made."""
        if self.inputs is None:
            raise UserError(f"The key of {self.stage} is not known yet.")
        return Draft(store, self.inputs, progress, self.replaces)


@dataclass(frozen=True)
class Found:
    """What the store holds under a key.

    Attributes:
        manifest: The complete result; None where there is none that is whole.
        tag: Entity tag of the manifest, whole or not; "" where there is none.
        damaged: The objects that are missing or altered, each with what is wrong with it.
        intact: The objects of a damaged result that are as they were.
        reason: What was found, in words; "" where there is nothing.
    """

    manifest: Manifest | None = None
    tag: str = ""
    damaged: Mapping[str, str] = field(default_factory=dict)
    intact: tuple[StoredObject, ...] = field(default=(), repr=False)
    reason: str = ""


def look_up(store: Store, inputs: KeyInputs) -> Found:
    """Look for the result of a key, and check every object of it before it is believed."""
    found = load_manifest(store, inputs.stage, inputs.key)
    if found is None:
        return Found()
    manifest, tag = found
    damaged = manifest.problems(store)
    if damaged:
        intact = tuple(stored for stored in manifest.objects if stored.name not in damaged)
        return Found(None, tag, damaged, intact, f"damaged: {', '.join(damaged.values())}")
    return Found(manifest, tag, reason=f"complete, {len(manifest.objects)} objects checked")


@dataclass(frozen=True)
class Pins:
    """Results of an earlier run that are used as they are.

    Attributes:
        run: The run's id.
        manifests: Stage → its result.
    """

    run: str
    manifests: Mapping[StageName, Manifest]


class Engine:
    """Decides, stage by stage, for one data source and one config.

    Args:
        store: Where results are kept.
        config: The config of every stage; a run that it names is looked up in the store.
        data: What --data named.
        settings: Where things are on this machine.
        from_stage: Compute this stage and all after it again; "" for none.
        until_stage: Stop after this stage.
        pins: Results of an earlier run that are used as they are, whatever changed since.

    Attributes:
        source_sha256: Digest of the content of the data source.
    """

    def __init__(
        self,
        store: Store,
        config: PipelineConfig,
        data: str,
        settings: Settings,
        from_stage: FromStage = "",
        until_stage: StageName = "submit",
        pins: Pins | None = None,
    ) -> None:
        self.store, self.data, self.settings = store, data, settings
        self.pins = pins or Pins("", {})
        last = STAGE_NAMES.index(until_stage)
        self.stages = STAGE_NAMES[: last + 1]
        self._forced = STAGE_NAMES[STAGE_NAMES.index(from_stage) :] if from_stage else ()
        if from_stage and from_stage not in self.stages:
            raise UserError(
                f"Nothing is left to do: --from {from_stage} begins after --until {until_stage} ends.",
                remedy="Name a later stage with --until, or leave it out.",
            )
        # Before any work: a backend that Keras does not know is a mistake of the user.
        self._libraries = {stage: library_versions(STAGES[stage].libraries) for stage in self.stages}
        self.config = with_models_found(config, store) if "train" in self.stages else config
        self._configs: dict[StageName, StageConfig] = {
            stage: self.config.of(stage).resolved(store) for stage in self.stages
        }
        if "ingest" in self.pins.manifests:
            self.source_sha256 = self.pins.manifests["ingest"].inputs.parents.get("source", "")
        else:
            with open_source(data, settings) as source:
                self.source_sha256 = source.content_digest()
                self._source_kind = source.kind
        self._complete: dict[StageName, list[Manifest]] = {}
        self._code: dict[StageName, Fingerprint] = {}
        self._kinds_of: dict[StageName, tuple[str, ...]] = {}

    def stage_config(self, stage: StageName) -> StageConfig:
        """Return the config of one stage."""
        return self._configs[stage]

    def decide(self, name: StageName, parents: Mapping[str, Manifest]) -> Decision:
        """Decide for a stage whose parents are complete: reuse what is whole, run what is not."""
        if name in self.pins.manifests:
            return self._decide_pinned(name)
        inputs = self.inputs(name, parents)
        if name in self._forced:
            there = load_manifest(self.store, name, inputs.key)
            reason = "asked for with --from"
            return Decision(name, "run", reason, inputs, replaces=there[1] if there else "", forget=True)
        found = look_up(self.store, inputs)
        if self._forced and not found.tag and STAGES[name].section not in self._forced:
            raise self._cannot_start(name, inputs)
        if not found.tag:
            return Decision(name, "run", self._why(inputs), inputs)
        if found.manifest is None:
            damaged = tuple(found.damaged)
            return Decision(name, "run", found.reason, inputs, None, found.tag, damaged, found.intact)
        return Decision(name, "reuse", found.reason, inputs, found.manifest)

    def plan(self) -> list[Decision]:
        """Decide for every stage without doing anything."""
        decisions: list[Decision] = []
        complete: dict[str, Manifest] = {}
        for name in self.stages:
            running = [parent for parent in STAGES[name].parents if parent not in complete]
            if running:
                decisions.append(Decision(name, "run", self._why_after(name, running)))
                continue
            decision = self.decide(name, complete)
            decisions.append(decision)
            if decision.manifest:
                complete[name] = decision.manifest
        return decisions

    def inputs(self, name: StageName, parents: Mapping[str, Manifest]) -> KeyInputs:
        """Return what the key of a stage is made of, given the results that it builds on."""
        if name in self.pins.manifests:
            return self.pins.manifests[name].inputs
        stage = STAGES[name]
        return self._inputs(
            name, {parent: stage.reads_of(parents[parent]).digest for parent in stage.parents}
        )

    def estimates(self, decisions: Sequence[Decision], recipe: str) -> dict[str, float | None]:
        """Return how many seconds each stage that runs may take, from the records; None where none knows."""
        return {
            decision.stage: self.known.seconds(decision.stage, recipe, self.data)
            for decision in decisions
            if decision.state == "run"
        }

    def _decide_pinned(self, name: StageName) -> Decision:
        """Reuse the result of an earlier run, and say what would have kept it from being reused."""
        manifest, run = self.pins.manifests[name], self.pins.run
        damaged = manifest.problems(self.store)
        if damaged:
            raise UserError(
                f"The {name} of run {run} is damaged: {', '.join(damaged.values())}.",
                where=f"{self.store.url}/stages/{name}/{manifest.key}",
                remedy="Run without --of to have it computed again.",
            )
        own = self._inputs(name, manifest.inputs.parents)
        changed = list(causes(manifest.inputs, own))
        although = f", although {in_short(changed)}" if changed else ""
        return Decision(name, "reuse", f"pinned to run {run}{although}", manifest.inputs, manifest)

    def _inputs(self, name: StageName, parents: dict[str, str]) -> KeyInputs:
        config, names = self.stage_config(name).key_document(), self._kinds(name)
        return KeyInputs(
            stage=name,
            config=config,
            parents=parents or {"source": self.source_sha256},
            code=self._code_of(name, words(config).union(names)),
            libraries=self._libraries[name],
            names=names,
        )

    def _code_of(self, name: StageName, names: Collection[str]) -> Fingerprint:
        """Return a stage's code as this engine first saw it: one plan asks often."""
        if name not in self._code:
            self._code[name] = code_fingerprint(STAGES[name].module_name, names)
        return self._code[name]

    def _kinds(self, name: StageName) -> tuple[str, ...]:
        """Return the kinds of what a stage reads by a path: the data source, and what its config names."""
        if name in self.pins.manifests:
            return self.pins.manifests[name].inputs.names
        if name not in self._kinds_of:
            own = () if STAGES[name].parents else (self._source_kind,)
            self._kinds_of[name] = tuple(sorted({*own, *self.stage_config(name).kinds_named()}))
        return self._kinds_of[name]

    def _why_after(self, name: StageName, running: list[StageName]) -> str:
        """Return why a stage runs whose parents run first; its own changes are named where there are any."""
        follows = f"follows {', '.join(running)}"
        complete = self._complete_results(name)
        if name in self._forced or not complete:
            return follows
        own = [
            explain(self._inputs(name, manifest.inputs.parents), [manifest], self.known.runs)
            for manifest in complete
            if self._inputs(name, manifest.inputs.parents).key != manifest.key
        ]
        unchanged = len(own) < len(complete)
        if unchanged:
            return f"{follows}; reused if that comes out the same"
        return f"{follows}; {min(own, key=len)}"

    def _complete_results(self, name: StageName) -> list[Manifest]:
        """Return the complete results of a stage that are worth a comparison, the newest first, read once."""
        if name not in self._complete:
            keys = self.known.keys(name)[:MAX_COMPARED] or [
                stored.split("/")[2]
                for stored in self.store.list(f"stages/{name}/")
                if stored.endswith("/manifest.json")
            ]
            found = in_parallel(lambda key: load_manifest(self.store, name, key), keys)
            self._complete[name] = [loaded[0] for loaded in found if loaded]
        return self._complete[name]

    def _why(self, inputs: KeyInputs) -> str:
        return explain(inputs, self._complete_results(inputs.stage), self.known.runs)  # type: ignore[arg-type]

    @cached_property
    def known(self) -> KnownRuns:
        """What the records of the store say, read once."""
        return KnownRuns.read(self.store)

    def _cannot_start(self, name: StageName, inputs: KeyInputs) -> UserError:
        return UserError(
            f"Cannot start from {self._forced[0]!r}: its input {name!r} {inputs.key[:8]} is not complete.",
            received=self._why(inputs),
            where=f"{self.store.url}/stages/{name}/{inputs.key}",
            remedy=f"Run with --from {name} to build it, or without --from to build what is missing.",
        )


def all_reused(decisions: list[Decision]) -> bool:
    """Return whether there is nothing to do."""
    return all(decision.state == "reuse" for decision in decisions)


def require_manifest(decision: Decision) -> Manifest:
    """Return the manifest of a reused stage."""
    if decision.manifest is None:
        raise StoreError(f"The {decision.stage} stage is not complete.")
    return decision.manifest
