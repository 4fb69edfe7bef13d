"""The embedded world: pictures drawn from known factors, with captions, data sets, shifts and transfer sets."""
