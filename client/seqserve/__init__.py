"""The Python client of seqserve.

    from seqserve import Client
    client = Client("http://localhost:3000")
    client.tag("Harry met Hermione.")

Needs httpx and nothing of the service: it knows the HTTP contract alone.
"""

from seqserve.aio import AsyncClient
from seqserve.answers import Entity, Generation, Label, Model, Token
from seqserve.client import Client
from seqserve.errors import (
    BadAnswer,
    Broken,
    DeadlinePassed,
    InternalError,
    InvalidRequest,
    NoAnswer,
    NotConnected,
    NotFound,
    Overloaded,
    Problem,
    SeqserveError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from seqserve.streams import AsyncTokenStream, TokenStream
from seqserve.tries import Tries
from seqserve.version import VERSION

__all__ = [
    "VERSION",
    "AsyncClient",
    "AsyncTokenStream",
    "BadAnswer",
    "Broken",
    "Client",
    "DeadlinePassed",
    "Entity",
    "Generation",
    "InternalError",
    "InvalidRequest",
    "Label",
    "Model",
    "NoAnswer",
    "NotConnected",
    "NotFound",
    "Overloaded",
    "Problem",
    "SeqserveError",
    "TimedOut",
    "Token",
    "TokenStream",
    "TooLarge",
    "Tries",
    "Unauthorized",
    "Unavailable",
]
