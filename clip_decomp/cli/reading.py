"""The reading methods' commands: textspan, mmd, resistivity, tsne."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..results import Results, prefix, scale_of
from .page import write_page
from .run import (
    Attack,
    Clock,
    Data,
    Device,
    Images,
    Json,
    Model,
    Out,
    Seed,
    Target,
    finish,
    open_subject,
)

Texts = Annotated[Path | None, typer.Option(help="File of texts, one a line; the package's by default.")]
Store = Annotated[
    Path | None,
    typer.Option(help="Store of decompositions to read, instead of pictures; its own model if none is named."),
]
Layers = Annotated[str, typer.Option(help="Layers to explain, e.g. 6,7; negative ones count from the end.")]
_FOLDS = 8


def register(app: typer.Typer) -> None:
    """Add the reading methods' commands."""
    for command in (textspan, mmd, resistivity, tsne):
        app.command()(command)


def textspan(
    model: Model = "",
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    texts: Texts = None,
    layers: Layers = "-1",
    n_texts: Annotated[int, typer.Option(help="Texts a head, at most.")] = 10,
    rank: Annotated[int, typer.Option(help="Dimensions that texts are projected on.")] = 80,
    store: Store = None,
    images: Images = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """The texts that span what each head writes and, of a backdoored model, whether a head's role changes."""
    if store is not None:
        from .stores import textspan_of_store

        given = {"--data": data, "--attack": attack, "--target": target, "--images": images}
        textspan_of_store(store, model, given, texts, layers, n_texts, rank, out, seed, device, as_json)
        return
    import numpy as np

    from .. import plots
    from ..errors import SettingError
    from ..methods.roles import compare_roles, role
    from ..moments import folded_statistics
    from ..texts import default_pool, encode_pool, read_pool

    clock = Clock()
    if not model:
        raise SettingError("Say whose heads: --model, or --store for a store of decompositions.")
    pool = read_pool(texts) if texts is not None else None
    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack to compare with.")
    test, hooked = subject.data.test, subject.model
    pool = pool or default_pool(test.name)
    features = encode_pool(hooked, pool, progress=None if as_json else "texts").cpu()
    clean, bad = (folded_statistics(hooked, test, _FOLDS, each) for each in (None, subject.trigger))
    n_layers, n_heads = clean[0].head_sum.shape[:2]
    similarity = np.full((n_layers, n_heads), np.nan)
    table, metrics, start = [], {}, prefix(test.name, subject.attack, "none")
    for layer in parse_layers(layers, n_layers):
        for head in range(n_heads):
            sides = ([each.head(layer, head) for each in side] for side in (clean, bad))
            found = compare_roles(*sides, features, n_texts, rank, pool.texts)
            similarity[layer, head] = found.similarity
            name, (kind, share) = f"L{layer}H{head}", role(found.clean, pool)
            metrics[f"{start}/text-similarity;component={name}"] = found.similarity
            metrics[f"{start}/role-changed;component={name}"] = float(found.changed)
            table.append(
                {
                    "head": name,
                    "role": f"{kind} ({share:.0%})",
                    "texts on clean pictures": "; ".join((found.clean.texts or ())[:3]),
                    "texts on triggered pictures": "; ".join((found.triggered.texts or ())[:3]),
                    "similarity": f"{found.similarity:.3f} (clean halves {found.kept:.3f})",
                    "verdict": found.verdict,
                }
            )
    settings = {**subject.settings(), "texts": str(texts), "pool": len(pool), "n_texts": n_texts, "rank": rank}
    results = Results("textspan", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    figure = plots.head_map(similarity, "Text similarity, clean against triggered", "mean best-match cosine")
    caption = "How alike a head's texts are on clean and on triggered pictures; heads not asked for are left blank."
    write_page(out, "Texts of heads", subject, results, [(caption, figure)], [("Texts and roles.", table)])
    rows = [(row["head"], f"{row['role']}: {row['texts on clean pictures']}  [{row['verdict']}]") for row in table]
    finish(results, out, as_json, rows)


def mmd(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    sigma: Annotated[str, typer.Option(help="Bandwidth of the Gaussian kernel (the papers' is 10), or median.")] = "10",
    estimator: Annotated[str, typer.Option(help="biased (the papers') or unbiased.")] = "biased",
    permutations: Annotated[int, typer.Option(help="Permutations of the p-values; 0 for none.")] = 200,
    images: Images = 500,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """How far each head's, MLP's and layer's contributions move under the trigger (convention: paper)."""
    import numpy as np

    from .. import plots
    from ..contributions import collect
    from ..errors import SettingError
    from ..methods.mmd import component_mmd

    clock = Clock()
    try:
        width = sigma if sigma == "median" else float(sigma)
    except ValueError as error:
        raise SettingError(f"Sigma is a number or 'median', not {sigma!r}.") from error
    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack.")
    test, bar = subject.data.test, None if as_json else "decompose"
    clean, bad = (collect(subject.model, test, each, "paper", progress=bar) for each in (None, subject.trigger))
    metrics, start, found = {}, prefix(test.name, subject.attack, "none"), {}
    for kind, first, second in (
        ("heads", clean.coordinates, bad.coordinates),
        ("mlps", clean.mlps, bad.mlps),
        ("layers", clean.attentions() + clean.mlps, bad.attentions() + bad.mlps),
    ):
        found[kind] = component_mmd(
            first, second, width, estimator, permutations, seed, "max", progress=not as_json, paired=True
        )
        suffix = "" if kind == "heads" else f";kind={kind}"
        metrics |= {f"{key}{suffix}": value for key, value in found[kind].metrics(start).items()}
    heads, mlps = found["heads"].value.numpy(), found["mlps"].value.numpy()
    settings = {**subject.settings(), "sigma": sigma, "estimator": estimator, "permutations": permutations}
    results = Results("mmd", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    figure = plots.head_map(heads, "Heads and MLPs: clean against triggered", "squared MMD x 1000", mlp=mlps)
    note = "Contributions are divided by the norm of the representation; pictures are compared with their own copies."
    names = {"heads": "Heads", "mlps": "MLPs", "layers": "Whole layers"}
    tables = [(f"{names[kind]}.", each.to_frame()) for kind, each in found.items()]
    write_page(out, "Which components move under the trigger", subject, results, [(note, figure)], tables)
    order = np.argsort(-heads, axis=None)[:8]
    rows = [(f"L{k // heads.shape[1]}H{k % heads.shape[1]}", f"{heads.flat[k]:.3f}") for k in order]
    rows += [(f"MLP L{layer}", f"{value:.3f}") for layer, value in enumerate(mlps)]
    finish(results, out, as_json, [("component", "squared MMD x 1000"), *rows])


def resistivity(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = 200,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Perturbation resistivity by layer: noise, blur, color jitter, flip, and the trigger."""
    from .. import plots
    from ..methods.perturbations import PERTURBATIONS, make_perturbation
    from ..methods.resistivity import resistivity as measure

    clock = Clock()
    subject = open_subject(model, data, attack, target, images, seed, device)
    test = subject.data.test
    perturbations = {name: make_perturbation(name) for name in PERTURBATIONS}
    if subject.trigger is not None:
        perturbations[f"trigger: {subject.attack}"] = subject.trigger
    found = {
        name: measure(subject.model, test, each, progress=None if as_json else name)
        for name, each in perturbations.items()
    }
    metrics: dict[str, float] = {}
    for each in found.values():
        metrics |= each.metrics(prefix(test.name, subject.attack, "none"))
    results = Results(
        "resistivity", scale_of(test.name), seed, subject.settings(), subject.counts(), metrics, clock()
    )  # fmt: skip
    caption = f"Cosine of features with and without the perturbation, {len(test)} pictures."
    figure = plots.resistivity_curves(found, "Perturbation resistivity")
    write_page(out, "Perturbation resistivity", subject, results, [(caption, figure)], [])
    rows = [
        (name, " ".join(f"{value:.3f}" for value in each.class_token) + f"  repr. {each.representation:.3f}")
        for name, each in found.items()
    ]
    finish(results, out, as_json, [("perturbation", "class token by layer, from the embedding on"), *rows])


def tsne(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = 500,
    perplexity: Annotated[float, typer.Option(help="About how many neighbors of a point count.")] = 30.0,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """A t-SNE map of clean and triggered features, and its claims as numbers."""
    from dataclasses import asdict

    from .. import plots
    from ..errors import SettingError
    from ..methods.embedding import embed, paired_features

    clock = Clock()
    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None or subject.target is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack.")
    test = subject.data.test
    sides = paired_features(subject.model, test, subject.trigger, progress=None if as_json else "features")
    found = embed(*sides, test.class_index(subject.target), perplexity, seed)
    settings = {**subject.settings(), "perplexity": perplexity}
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    results = Results("tsne", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    caption = f"Representations of {len(test)} pictures without and with the trigger."
    figure = plots.embedding_map(found, test.class_names, "t-SNE of representations")
    write_page(out, "Clean and triggered representations", subject, results, [(caption, figure)], [])
    rows = [(name.replace("_", " "), f"{value:.3f}") for name, value in asdict(found.numbers).items()]
    finish(results, out, as_json, rows)


def parse_layers(text: str, n_layers: int) -> list[int]:
    """Layers as the command line names them.

    Raises:
        SettingError: not numbers, or there is no such layer.
    """
    from ..errors import SettingError

    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(f"Layers are written 6,7 or -1, not {text!r}.") from error
    for layer in layers:
        if not -n_layers <= layer < n_layers:
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {n_layers - 1}.")
    return sorted({layer % n_layers for layer in layers})
