"""``--pretrained``, ``--quick-gelu``, ``--mean`` and ``--std``, for every command that has ``--model``.

The four say what :func:`clip_decomp.models.loading.load` is told beside the model's name. Commands do not spell them
out: :func:`offer` adds them to all, and :func:`open_model` reads them.

Example:
    >>> open_model("world/clean", "cpu").name
    'world/clean'
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .run import Model, check_device

if TYPE_CHECKING:
    from ..model import HookedCLIP

_Three = tuple[float, float, float]
_OPTIONS: dict[str, Any] = {
    "pretrained": Annotated[
        str | None, typer.Option(help="Of an open_clip name: a tag such as openai, or a file; random weights without.")
    ],
    "quick_gelu": Annotated[
        bool | None,
        typer.Option("--quick-gelu/--no-quick-gelu", help="The activation, where the weights do not say it."),
    ],
    "mean": Annotated[_Three | None, typer.Option(help="The pixels' mean, where the weights do not say it.")],
    "std": Annotated[_Three | None, typer.Option(help="The pixels' deviation, where the weights do not say it.")],
}


@dataclass(frozen=True)
class Weights:
    """What was said of a model's weights; see :func:`clip_decomp.models.loading.load`."""

    pretrained: str | None = None
    quick_gelu: bool | None = None
    mean: _Three | None = None
    std: _Three | None = None

    def arguments(self) -> list[str]:
        """The same for the command line of another process."""
        found = [] if self.pretrained is None else ["--pretrained", self.pretrained]
        if self.quick_gelu is not None:
            found.append("--quick-gelu" if self.quick_gelu else "--no-quick-gelu")
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            found += [] if values is None else [name, *map(str, values)]
        return found


_SAID: ContextVar[Weights] = ContextVar("weights", default=Weights())  # noqa: B039, it is frozen


def said() -> Weights:
    """What the command that runs was told of the weights."""
    return _SAID.get()


def open_model(model: str, device: str) -> HookedCLIP:
    """Load the model that ``--model`` names, with the weights that the command was told to take."""
    from ..models.loading import load

    return load(model, **asdict(said()), device=check_device(device))


def open_beside(model: str, other: str, device: str) -> HookedCLIP:
    """Load what a model is compared with, told the same of its weights, unless it says them itself.

    Args:
        other: where ``--pretrained`` was given, other weights of the same open_clip name; else a model.

    Raises:
        SettingError: an open_clip name alone, whose weights are random.
    """
    from ..errors import ModelError, SettingError
    from ..models.loading import load

    told = said()
    if told.pretrained is not None:
        return load(model, **asdict(replace(told, pretrained=other)), device=check_device(device))
    import open_clip

    if other in open_clip.list_models():
        raise SettingError(
            f"{other} has random weights: name it by --model, its weights by --pretrained, and others here."
        )
    try:
        return load(other, **asdict(told), device=check_device(device))
    except ModelError:
        if told == Weights():
            raise
        return load(other, device=check_device(device))  # says itself what the other one has to be told


def offer(app: typer.Typer) -> None:
    """Add the options to every command of an application and of its groups that takes ``--model``."""
    for command in app.registered_commands:
        if command.callback is not None and _takes_model(command.callback):
            command.callback = _with_options(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            offer(group.typer_instance)


def _takes_model(callback: Callable[..., Any]) -> bool:
    annotations = inspect.get_annotations(callback)
    return annotations.get("model") in ("Model", Model) and "pretrained" not in annotations


def _with_options(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def command(*args: Any, **options: Any) -> Any:
        with _telling(Weights(**{name: options.pop(name) for name in _OPTIONS})):
            return callback(*args, **options)

    hints = get_type_hints(callback, include_extras=True)
    own = inspect.signature(callback)
    old = [each.replace(annotation=hints.get(name, each.annotation)) for name, each in own.parameters.items()]
    keyword = inspect.Parameter.KEYWORD_ONLY
    new = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in _OPTIONS.items()]
    place = next(k for k, each in enumerate(old) if each.name == "model") + 1
    # All of them by keyword, so that the new ones can be shown beside --model.
    parameters = [each.replace(kind=keyword) for each in (*old[:place], *new, *old[place:])]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {**hints, **_OPTIONS}
    return command


@contextmanager
def _telling(weights: Weights) -> Iterator[None]:
    token = _SAID.set(weights)
    try:
        yield
    finally:
        _SAID.reset(token)
