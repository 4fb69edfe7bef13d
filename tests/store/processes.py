"""Runs that write a store of a tiny model in processes of their own.

``processes.py once FOLDER`` writes one, alone or as one of several. ``processes.py kills FOLDER SEED COUNT`` starts a
run again and again, in a fork each, and kills it at a random moment until COUNT runs were killed at work, each with a
store of its own; the last line of the output is a JSON list of what had been done when the kill came.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.model import HookedCLIP
from clip_decomp.store import Written, write_store
from clip_decomp.tokenizer import BPETokenizer

PICTURES, SHARD_SIZE, BATCH_SIZE = 200, 20, 8


def subject():
    """Always the same model and pictures."""
    tokenizer = BPETokenizer.train(["a photo of a pear."], vocab_size=300, context_length=16)
    torch.manual_seed(0)
    vision = CLIPVisionCfg(image_size=32, patch_size=8, width=32, layers=3, head_width=8)
    text = CLIPTextCfg(context_length=16, vocab_size=tokenizer.vocab_size, width=16, heads=2, layers=1)
    model = HookedCLIP(CLIP(24, vision, text).eval(), tokenizer, (0.5,) * 3, (0.2,) * 3, name="tiny")
    pixels = torch.randint(256, (PICTURES, 3, 32, 32), dtype=torch.uint8)
    return model, ImageSet("toy", ("apple", "pear"), torch.arange(PICTURES) % 2, TensorSource(pixels))


def once(folder: Path) -> Written:
    """Write a store, or go on with it."""
    torch.set_num_threads(1)
    return write_store(*subject(), folder, shard_size=SHARD_SIZE, batch_size=BATCH_SIZE)


def kills(folder: Path, seed: int, count: int) -> list[dict]:
    """Begin ``count`` stores, each killed at a random moment; they are left as the kill left them."""
    torch.set_num_threads(1)
    chance, found = random.Random(seed), []
    model, data = subject()
    start = time.perf_counter()
    settings = {"shard_size": SHARD_SIZE, "batch_size": BATCH_SIZE}
    write_store(model, data, folder / "whole", **settings)
    whole = time.perf_counter() - start
    while len(found) < count:
        place = folder / f"killed-{len(found)}"
        child = os.fork()
        if child == 0:
            write_store(model, data, place, **settings)
            os._exit(0)
        time.sleep(chance.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        begun = (place / "manifest.json").exists()
        if killed and begun and not json.loads((place / "manifest.json").read_text())["complete"]:
            names = sorted(file.name for file in place.rglob("*") if file.is_file())
            found.append({"shards": sum(name.startswith("shard") for name in names), "files": names})
        else:  # before or after its work
            for file in place.rglob("*"):
                if file.is_file():
                    file.unlink()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "once":
        written = once(Path(sys.argv[2]))
        sys.stdout.write(json.dumps({"main": written.main, "images": written.images}) + "\n")
    else:
        sys.stdout.write(json.dumps(kills(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))) + "\n")
