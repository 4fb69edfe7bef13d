"""The reading methods, one small file each: a decomposition or a data set goes in, a frozen result comes out.

They live in a folder of their own so that ``clip_decomp.textspan`` and ``clip_decomp.mmd`` can be functions.
"""
