r"""Decompositions of a whole data set on disk: written once, read lazily, by head.

A store is a folder::

    manifest.json             the model, the data, the settings, and once it is complete its shards
    basis.safetensors         an orthonormal basis of every head's own space, once
    shard-00000.safetensors   a fixed number of pictures each: heads in coordinates of their bases, MLPs, other parts
    statistics.safetensors    float64 sums and second moments of all pictures

A head of ``d_head`` 64 needs 64 numbers a picture, not ``d_embed``, so in half precision ViT-B/32 takes 33 kB a picture
where contributions in the joint space take 322 kB. Every vector then has a power of two of its own
(:mod:`~clip_decomp.store.packing`): nothing overflows or underflows, and its relative error stays below
:math:`2^{-11}`.

Writing can be killed at any moment and be started again, alone or under ``torchrun``: the bytes are those of an
uninterrupted run (:mod:`~clip_decomp.store.writing`).

Example:
    >>> import tempfile
    >>> import clip_decomp
    >>> model, data = clip_decomp.load("world/clean"), clip_decomp.open_data("world", 64, test=20)
    >>> folder = tempfile.mkdtemp()
    >>> store = write_store(model, data.test, folder, shard_size=16).store
    >>> store
    Store(20 pictures of world read by world/clean, 8 layers of 12 heads, fp16, convention exact)
    >>> store[7, 3].shape, store.mlps(7).shape, store.covariance(7, 3).shape
    (torch.Size([20, 128]), torch.Size([20, 128]), torch.Size([16, 16]))
    >>> [len(part) for part in store.batches(8)], len(open_store(folder, model).labels)
    ([8, 8, 4], 20)
"""

from __future__ import annotations

from .reading import Store, open_store
from .writing import Written, write_store

__all__ = ["Store", "Written", "open_store", "write_store"]
