"""Measure the search for near duplicates, and show that its groups are those of all pairs.

Compares with all pairs, which takes N² time: the real cells of --cells, and 100,000 drawn hashes of which a
tenth are copies of another, 0 to 42 bits away. Then measures a million drawn hashes: as they come, and with a
tenth of them in dense clusters of 10, 1,000 and 100,000, each member at most 20 bits from the middle. Each
line is a process of its own: CPU seconds, seconds that passed, and peak memory, hashes included.

    python benchmarks/near_duplicates.py --cells ../shared/data/pbc96_train.zip
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hemaflow.tasks.ingest.cleaning import perceptual_hash
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.covering_masks import HASH_BITS
from hemaflow.tasks.ingest.near_duplicates import near_groups

BITS = IngestConfig().near_duplicate_bits
BLOCK = 16
CLUSTER_BITS = 20
"""Largest distance of a member of a cluster from its middle: half of BITS, so all are near duplicates."""

Hashes = NDArray[np.uint64]


def flips(rng: np.random.Generator, num: int, most: int) -> Hashes:
    """Return hashes uint64[num, 4] with 0 to `most` bits each."""
    bits = np.zeros((num, HASH_BITS), np.uint8)
    for row, count in zip(bits, rng.integers(0, most + 1, num), strict=True):
        row[rng.choice(HASH_BITS, count, replace=False)] = 1
    return np.packbits(bits, axis=1).view(np.uint64)


def drawn(
    num: int, *, copied: float = 0.01, clustered: float = 0.0, cluster: int = 1, seed: int = 0
) -> Hashes:
    """Return random hashes uint64[num, 4], some of them copies of others, some in clusters."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (num, 4), np.uint64)
    num_copies, num_clustered = int(num * copied), int(num * clustered)
    hashes[:num_copies] = hashes[num - num_copies :] ^ flips(rng, num_copies, BITS + 2)
    for start in range(num_copies, num_copies + num_clustered, max(cluster, 1)):
        hashes[start : start + cluster] = hashes[start] ^ flips(rng, cluster, CLUSTER_BITS)
    rng.shuffle(hashes)
    return hashes


def hashes_of(path: Path) -> Hashes:
    """Return the perceptual hashes of all JPEG files in a zip."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return np.array(
            [perceptual_hash(np.asarray(Image.open(io.BytesIO(archive.read(name))))) for name in names]
        )


def groups_of_all_pairs(hashes: Hashes) -> list[int]:
    """Return the groups by their definition: compare all pairs, and connect those at most BITS apart."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    words, pairs = np.ascontiguousarray(hashes.T), []
    for start in range(0, len(hashes), BLOCK):
        distance = np.zeros((len(hashes[start : start + BLOCK]), len(hashes) - start), np.uint16)
        for word in words:
            distance += np.bitwise_count(word[start : start + BLOCK, None] ^ word[None, start:])
        pairs.append(np.argwhere(distance <= BITS) + start)
    edges = np.concatenate(pairs).T
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(len(hashes),) * 2)
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    groups: list[int] = first[component].tolist()
    return groups


def measured(make: Callable[[], Hashes], compare: bool) -> str:
    """Return the cells of a row of the table."""
    hashes = make()
    cpu, started = time.process_time(), time.perf_counter()
    groups = near_groups(hashes, BITS)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    row = f"{len(hashes):,} | {len(set(groups)):,} | {cpu:.1f} | {seconds:.1f} | {peak:.0f}"
    if not compare:
        return f"{row} | |"
    started = time.perf_counter()
    if groups != groups_of_all_pairs(hashes):
        raise SystemExit(f"{row}: the groups are not those of all pairs.")
    return f"{row} | equal ({time.perf_counter() - started:.1f} s) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=Path, help="zip of real cells as JPEG")
    parser.add_argument("--hashes", type=int, default=1_000_000, help="number of drawn hashes")
    arguments = parser.parse_args()
    draw, num = partial(drawn, arguments.hashes), 100_000
    cases: list[tuple[str, Callable[[], Hashes], bool]] = [
        ("drawn", partial(drawn, num, copied=0.1), True),
        ("drawn, a tenth in clusters of 1,000", partial(drawn, num, clustered=0.1, cluster=1000), True),
        ("drawn", draw, False),
        *(
            (f"drawn, a tenth in clusters of {size:,}", partial(draw, clustered=0.1, cluster=size), False)
            for size in (10, 1000, 100_000)
        ),
    ]
    if arguments.cells:
        cases.insert(0, ("real cells", partial(hashes_of, arguments.cells), True))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; at most {BITS} bits\n")
    print("| hashes | number | groups | CPU seconds | seconds | peak MiB | all pairs |")
    print("|---|---|---|---|---|---|---|")
    for name, make, compare in cases:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            print(f"| {name} | {pool.submit(measured, make, compare).result()}", flush=True)


if __name__ == "__main__":
    main()
