"""The figures and tables of the papers, each from the models of one scale; ``clip-decomp figures`` draws them.

A figure is an :class:`~.items.Item`: it names the attacks whose models it needs and draws from what figures share, a
:class:`~.bench.Bench`. :mod:`.runs` keeps every figure in a folder of its own and draws only what is not there
yet; :mod:`.page` makes one page of all folders.
"""
