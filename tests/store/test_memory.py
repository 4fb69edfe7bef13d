"""Reading a large store takes the memory of what is read, not of the store."""

import json
import os
import shutil
import subprocess
import sys

import torch

from clip_decomp.store import open_store
from clip_decomp.store.files import BASIS, publish_json, scratch_tensors, shard_file
from clip_decomp.store.plan import Plan

LAYERS, HEADS, RANK, WIDTH, PICTURES, SHARDS = 12, 12, 64, 512, 1000, 4

READ = """
import json, sys
import psutil
from clip_decomp.store import open_store

resident = psutil.Process().memory_info
store = open_store(sys.argv[1])
store.coordinates(0, 0, slice(0, 10)), store.labels, next(store.batches(10))  # what is imported and allocated once
before = resident().rss
head = store[7, 3]
one, most = resident().rss - before, 0
del head
before = resident().rss
for part in store.batches(50):
    most = max(most, resident().rss - before)
print(json.dumps({"head": one, "batches": most}))
"""


def large(folder):
    """A made-up store of ViT-B/32's shape, 130 MB."""
    plan = Plan(
        model={
            "name": "made-up",
            "fingerprint": "0",
            "layers": LAYERS,
            "heads": HEADS,
            "rank": RANK,
            "d_embed": WIDTH,
            "parts": ["embedding", "bias"],
        },
        data={"name": "large", "pictures": PICTURES * SHARDS, "class_names": ["a", "b"], "digest": "0"},
        settings={"dtype": "fp16", "shard_size": PICTURES, "batch_size": 64, "convention": "exact", "attack": None},
        made_with={"versions": {}, "threads": 1},
    )
    basis = torch.randn(LAYERS, HEADS, RANK, WIDTH)
    scratch_tensors(folder / BASIS, {"basis": basis}, plan.identity, {}).publish()
    shapes = {
        "heads": (LAYERS, HEADS, PICTURES, RANK),
        "mlps": (LAYERS, PICTURES, WIDTH),
        "embedding": (PICTURES, WIDTH),
        "bias": (PICTURES, WIDTH),
    }
    shards = []
    for number in range(SHARDS):
        tensors = {"labels": torch.arange(PICTURES) % 2, "indices": torch.arange(PICTURES) + number * PICTURES}
        for name, shape in shapes.items():
            tensors[name] = torch.full(shape, number + 1.0, dtype=torch.float16)
            tensors[f"{name}.power"] = torch.full(shape[:-1], 1, dtype=torch.int8)
        shard = scratch_tensors(shard_file(folder, number), tensors, plan.identity, {"shard": number})
        shards.append({"images": PICTURES, "unread": 0, "bytes": shard.size, "sha256": shard.sha256()})
        shard.publish()
    counts = {"images": PICTURES * SHARDS, "skipped": 0}
    publish_json(folder / "manifest.json", plan.manifest(counts=counts, skipped_images=[], shards=shards))
    return open_store(folder)


def test_memory_is_bounded(tmp_path):
    store = large(tmp_path)
    assert store.shard_bytes > 130e6
    torch.testing.assert_close(store.coordinates(3, 4)[::PICTURES, 0], 2 * (torch.arange(SHARDS) + 1.0))
    command = [sys.executable, "-c", READ, str(tmp_path)]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    shutil.rmtree(tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    head = PICTURES * SHARDS * (WIDTH + 2 * RANK) * 4
    assert found["head"] < 2 * head  # of which half is the head itself
    assert found["head"] < store.shard_bytes / 5
    batch = 50 * ((LAYERS * HEADS * RANK) + (LAYERS + 2) * WIDTH) * 4 + LAYERS * HEADS * RANK * WIDTH * 4
    assert found["batches"] < 3 * batch
    assert found["batches"] < store.shard_bytes / 2
