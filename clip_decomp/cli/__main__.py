"""``python -m clip_decomp.cli``, which launchers such as torchrun need."""

from . import main

main()
