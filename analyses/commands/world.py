"""Commands about the world's factors: ``clip-decomp readout | factors``."""

from __future__ import annotations

from clip_decomp.cli.run import Clock, Device, Json, Model, Out, Seed, finish
from clip_decomp.results import Results


def readout(
    model: Model = "world/clean", out: Out = None, seed: Seed = 0, device: Device = "cpu", as_json: Json = False
) -> None:
    """Linear read-out of the world's factors (color, texture, position, ...) from a model's features."""
    from clip_decomp.cli.weights import open_model

    from ..readout import readout as read

    clock = Clock()
    found = read(open_model(model, device), seed=seed)
    metrics = {f"world/clean/none/readout;factor={name}": each.accuracy.value for name, each in found.items()}
    metrics |= {f"world/clean/none/readout-chance;factor={name}": each.chance for name, each in found.items()}
    count = next(iter(found.values())).accuracy.count
    rows = [(name, f"{each.accuracy} (chance {each.chance:.1%})") for name, each in found.items()]
    finish(Results("readout", "world", seed, {"model": model}, {"test": count}, metrics, clock()), out, as_json, rows)


def factors(
    model: Model = "world/clean", out: Out = None, seed: Seed = 0, device: Device = "cpu", as_json: Json = False
) -> None:
    """Do the heads that TEXTSPAN names for a factor of the world carry its read-out? A rank correlation for each."""
    from clip_decomp.cli.weights import open_model

    from ..factors import factor_heads

    clock = Clock()
    found = factor_heads(open_model(model, device), seed=seed)
    metrics: dict[str, float] = {}
    rows = [("", "rank correlation (p); named head, its rank in need; most needed head")]
    for each in found:
        metrics |= each.metrics("world/clean/none")
        rows.append(
            (
                each.factor,
                f"{each.correlation:+.2f} (p {each.p_value:.4f}), by share {each.share_correlation:+.2f} "
                f"(p {each.share_p_value:.4f}); {each.best_named}, rank {each.rank_of_named}; {each.best_needed}",
            )
        )
    counts = {"heads": found[0].lost.numel()}
    finish(Results("factors", "world", seed, {"model": model}, counts, metrics, clock()), out, as_json, rows)
