"""Hooked towers: the weights of other libraries behind one forward with a HookPoint at every place of interest."""
