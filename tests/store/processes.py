"""Runs that write a store of a tiny model in processes of their own.

``processes.py once FOLDER`` writes one, alone or as one of several. ``processes.py kills FOLDER SEED COUNT`` starts a
run again and again, in a fork each, and kills it at a random moment until COUNT runs were killed at work, each with a
store of its own, which it leaves as the kill left it. ``processes.py commands FOLDER SEED COUNT`` does the same with
``clip-decomp decompose`` itself, and runs the command again behind every kill. The last line of the output is a JSON
list of what had been done when the kills came.
"""

import json
import os
import random
import shutil
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


def killed(run, folder: Path, after) -> dict | None:
    """Begin a run in a fork and kill it; what it had done, or None if that was nothing or all.

    Args:
        run: writes the store.
        after: waits for the moment of the kill.
    """
    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    after()
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    manifest = folder / "manifest.json"
    if died and manifest.exists() and not json.loads(manifest.read_text())["complete"]:
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        return {"shards": sum(name.startswith("shard") for name in names), "files": names}
    shutil.rmtree(folder, ignore_errors=True)
    return None


def kills(folder: Path, seed: int, count: int) -> list[dict]:
    """Begin ``count`` stores, each killed at a random moment of what a whole run takes."""
    torch.set_num_threads(1)
    chance, found = random.Random(seed), []
    model, data = subject()
    settings = {"shard_size": SHARD_SIZE, "batch_size": BATCH_SIZE}
    start = time.perf_counter()
    write_store(model, data, folder / "whole", **settings)
    whole = time.perf_counter() - start
    while len(found) < count:
        place = folder / f"killed-{len(found)}"

        def run(place=place):
            write_store(model, data, place, **settings)

        one = killed(run, place, lambda: time.sleep(chance.uniform(0, whole)))
        found += [one] if one else []
    return found


def commands(folder: Path, seed: int, count: int) -> list[dict]:
    """The same with the command on the shipped model, killed a random time after a random shard is there."""
    from clip_decomp.cli import main
    from clip_decomp.data import open_data

    torch.set_num_threads(1)
    open_data("world", 64, test=160)  # drawn once for all forks
    chance, found = random.Random(seed), []

    def command(place):
        arguments = ["--model", "world/clean", "--images", "160", "--shard-size", "16", "--batch-size", "8"]
        sys.argv = ["clip-decomp", "decompose", *arguments, "--json", "--out", str(place)]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit as stop:
            os._exit(stop.code or 0)

    def finished(place):
        child = os.fork()
        if child == 0:
            command(place)
        assert os.waitpid(child, 0)[1] == 0

    finished(folder / "whole")
    while len(found) < count:
        place = folder / f"killed-{len(found)}"

        def moment(place=place):
            shards, deadline = chance.randrange(10), time.perf_counter() + 100
            while len(list(place.glob("shard-*"))) < shards or not (place / "manifest.json").exists():
                if time.perf_counter() > deadline:
                    raise RuntimeError("the command does nothing")
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.4))

        one = killed(lambda place=place: command(place), place, moment)
        if one:
            found.append(one)
            finished(place)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "once":
        written = once(Path(sys.argv[2]))
        sys.stdout.write(json.dumps({"main": written.main, "images": written.images}) + "\n")
    else:
        chosen = {"kills": kills, "commands": commands}[sys.argv[1]]
        sys.stdout.write(json.dumps(chosen(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))) + "\n")
