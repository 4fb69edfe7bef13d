"""Stores: ``decompose`` writes one, ``textspan --store`` reads one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..results import Results, prefix, scale_of
from .run import Clock, Data, Device, Images, Json, Model, Seed, Subject, finish, open_subject

if TYPE_CHECKING:
    from ..data.sets import DataSet, ImageSet
    from ..store import Store


def decompose(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the store, and of results.json.")],
    data: Data = None,
    attack: Annotated[str | None, typer.Option(help="Decompose triggered pictures; clean ones by default.")] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="test, held-out or train; by default all pictures of a folder or file that has no parts, else test."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp16 (error below 1e-3) or fp32.")] = "fp16",
    convention: Annotated[str, typer.Option(help="exact, or paper: spread constants, divide by the norm.")] = "exact",
    shard_size: Annotated[int, typer.Option(help="Pictures a file; a kill costs at most one file's work.")] = 1024,
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    images: Images = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Decompose a whole data set into a store on disk. Interrupted runs resume; under torchrun, several processes share
    the work.
    """
    from ..store import write_store

    clock = Clock()
    subject = open_subject(model, data, attack, None, images, seed, device, check_target=False, need_target=False)
    if attack is None:  # whatever the card says: clean pictures are what most stores are of
        subject = replace(subject, trigger=None, target=None)
    chosen = _part(subject.data, part, images)
    found = write_store(
        subject.model,
        chosen,
        out,
        subject.trigger,
        convention,
        dtype,
        shard_size,
        batch_size,
        progress=None if as_json else "decompose",
    )
    if not found.main:
        return
    store, start = found.store, prefix(chosen.name, subject.attack, "none")
    shape = store.plan.model
    # float32 in the joint space: every head, every MLP, and the embedding as the reference code's 0th MLP.
    reference = 4 * shape["d_embed"] * (shape["layers"] * (shape["heads"] + 1) + 1)
    metrics = {
        f"{start}/bytes-per-image": store.shard_bytes / len(store),
        f"{start}/bytes-per-image;of=store": store.n_bytes / len(store),
        f"{start}/bytes-of-reference": store.shard_bytes / len(store) / reference,
    }
    if found.images:
        metrics[f"{start}/images-per-second"] = found.images / found.seconds
    results = Results(
        "decompose", scale_of(chosen.name), seed, _settings(subject, store), _counts(store), metrics, clock()
    )
    rows = [
        ("store", f"{out}: {store}"),
        ("pictures", f"{len(store)} in {store.plan.n_shards} shards"),
        ("bytes", f"{store.n_bytes:,}, of them {store.shard_bytes / len(store):,.0f} a picture"),
        ("of the reference's", f"{metrics[f'{start}/bytes-of-reference']:.1%}"),
    ]
    if found.images:
        rows.append(("pictures a second", f"{found.images / found.seconds:.1f} (this run's {found.images})"))
    finish(results, out, as_json, rows, "" if found.images else "The store was complete already: nothing was done.")


def _part(data: DataSet, part: str | None, images: int | None) -> ImageSet:
    """The pictures to decompose."""
    from ..errors import SettingError

    if part is None:
        # Test and held-out pictures of one source are halves that we made: together they are the data set.
        shared = data.test.source is data.held_out.source
        return replace(data.test, indices=None).first(images) if shared else data.test
    parts = {"test": data.test, "held-out": data.held_out, "train": data.train}
    if part not in parts:
        raise SettingError(f"There is no part {part!r} of a data set: use {', '.join(parts)}.")
    chosen = parts[part]
    if chosen is None:
        raise SettingError(f"{data.test.name} has no part {part!r}.")
    return chosen.first(images)


def _settings(subject: Subject, store: Store) -> dict[str, Any]:
    plan = store.plan
    own = {key: plan.settings[key] for key in ("dtype", "convention", "shard_size", "batch_size")}
    return {**subject.settings(), **own, "fingerprint": plan.model["fingerprint"], "data_digest": plan.data["digest"]}


def _counts(store: Store) -> dict[str, Any]:
    return {
        "images": len(store),
        "classes": len(store.class_names),
        "shards": store.plan.n_shards,
        "bytes": store.n_bytes,
        "skipped": store.manifest["counts"]["skipped"],
        "skipped_images": store.skipped,
    }


def textspan_of_store(
    folder: Path,
    model: str,
    given: dict[str, Any],
    texts: Path | None,
    layers: str,
    n_texts: int,
    rank: int,
    out: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """The texts that span what the heads of a store write.

    Args:
        given: options that have no meaning here, by name.
    """
    from ..errors import SettingError
    from ..methods.roles import role
    from ..methods.textspan import textspan
    from ..report import Section, write_report
    from ..store import open_store
    from ..texts import default_pool, encode_pool, read_pool
    from .reading import parse_layers
    from .weights import open_model

    clock = Clock()
    for name, value in given.items():
        if value is not None:
            raise SettingError(f"A store has its pictures: leave {name} out, or leave --store out.")
    plan = open_store(folder).plan
    pool = read_pool(texts) if texts is not None else default_pool(plan.data["name"])
    hooked = open_model(model or plan.model["name"], device)
    store = open_store(folder, hooked)
    features = encode_pool(hooked, pool, progress=None if as_json else "texts").cpu()
    attack = plan.settings["attack"]
    start = prefix(plan.data["name"], "clean" if attack is None else attack["name"], "none")
    table, metrics = [], {}
    for layer in parse_layers(layers, plan.model["layers"]):
        for head in range(plan.model["heads"]):
            found = textspan(store.statistics.head(layer, head), features, n_texts, rank, pool.texts)
            name, (kind, share) = f"L{layer}H{head}", role(found, pool)
            explained = float(found.explained_variance_ratio.sum())
            metrics[f"{start}/explained-variance;component={name}"] = explained
            table.append(
                {
                    "head": name,
                    "role": f"{kind} ({share:.0%})",
                    "texts": "; ".join((found.texts or ())[:3]),
                    "explained": f"{explained:.1%}",
                }
            )
    settings = {
        "model": hooked.name,
        "store": str(folder),
        "data": plan.data["name"],
        "attack": attack,
        "texts": str(texts),
        "pool": len(pool),
        "n_texts": n_texts,
        "rank": rank,
    }
    counts = _counts(store)
    results = Results("textspan", scale_of(plan.data["name"]), seed, settings, counts, metrics, clock())
    if out is not None:
        lead = f"{len(store)} pictures of {plan.data['name']} in {folder}, {results.seconds:.0f} seconds."
        facts = {"Model": hooked.name, "Store": str(store)}
        write_report(
            out / "report.html", "Texts of heads", lead, [Section("Measured", tables=[("Texts.", table)])], facts
        )
    finish(results, out, as_json, [(row["head"], f"{row['role']}: {row['texts']}") for row in table])
