"""A guard behind HTTP, on LitServe.

LitServe rather than Ray Serve: both batch requests and run several workers on several devices, but a guard is one model
behind one route, which needs no cluster. LitServe (Apache 2.0) is FastAPI and uvicorn with a queue, a small download;
Ray is a scheduler with an object store and daemons of its own. LitServe gives the batching, the workers and their
restart, the health check and OpenAPI. Its limit on bodies counts what it is handed but never how long it takes, and it
has none on pictures or on waiting requests: those are here.

The path of a request: :class:`~defenses.serving.gate.Gate` takes the body, within limits of size and time;
:func:`~defenses.serving.pictures.received` decodes it in the HTTP process, so that a bad picture is refused before it
shares a batch; an inference worker (:class:`~defenses.serving.api.GuardAPI`) sees pixels of the right size alone.

Limits: there is no authentication and no encryption here. Put a proxy in front of what faces a network.
"""
