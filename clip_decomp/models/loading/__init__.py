"""``load``: a hooked CLIP from a name, a file, a folder or a live model, without executing anything that comes along.

Where a model comes from decides who reads it: the zoo and this project's folders (:mod:`.folders`), open_clip's names,
hubs and folders (:mod:`.named`), Hugging Face's (:mod:`.hugging_face`), bare files (:mod:`.checkpoints`, and
:mod:`.programs` for OpenAI's TorchScript archives). What cannot be read off (the activation, the pixel normalization)
is demanded, never guessed (:mod:`.stated`).

Example:
    >>> import clip_decomp
    >>> clip_decomp.load("world/clean").visual.n_layers
    8
"""

from .checkpoints import load_weights, read_state_dict
from .entry import load
from .folders import CARD, TRIGGER, WEIGHTS, check_storable, file_hash, load_folder, save_folder

__all__ = [
    "CARD",
    "TRIGGER",
    "WEIGHTS",
    "check_storable",
    "file_hash",
    "load",
    "load_folder",
    "load_weights",
    "read_state_dict",
    "save_folder",
]
