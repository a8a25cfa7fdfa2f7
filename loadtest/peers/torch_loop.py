"""Generation as it is usually served: FastAPI, PyTorch, and a loop over the tokens of one text. A program under test.

python -m uvicorn loadtest.peers.torch_loop:app --no-access-log --port 8000

A `def` route in FastAPI's pool of threads; each request runs by itself, a token a step, sampled by temperature. The
layers are those of models/zoo/shakespeare. PEER_CHECKPOINT names the state dict that `make train RECIPE=shakespeare`
leaves; without one the weights are random, in the same shapes: just as fast, but nonsense is written. PEER_ONEDNN=0
switches oneDNN off, which packs the weights of an LSTM anew at every call: few know it, and the loop is far faster
without. PEER_AT_ONCE=0 writes one text after the other instead of up to forty in threads. The bench has all three.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from threading import Lock

import torch
from fastapi import FastAPI, Request
from pydantic import BaseModel
from torch import Tensor, nn

from models.bundle import load

BUNDLE = os.environ.get("PEER_BUNDLE", "models/zoo/shakespeare")
CHECKPOINT = os.environ.get("PEER_CHECKPOINT")
ONEDNN = os.environ.get("PEER_ONEDNN", "1") == "1"
AT_ONCE = os.environ.get("PEER_AT_ONCE", "1") == "1"
EMBEDDING, HIDDEN, LAYERS = 128, 512, 2  # of training/recipes/shakespeare.toml
NEVER_DRAWN = 2  # the first rows of the vocabulary: padding and unknown

State = tuple[Tensor, Tensor] | None


class Prompt(BaseModel):
    """The body of the route."""

    inputs: str
    max_new_tokens: int = 100
    temperature: float = 1.0


class CharacterModel(nn.Module):
    """Embedding, LSTM, logits.  T steps, B = 1, V vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """tokens (T, 1) -> logits of the token after the last one (V,), and the state."""
        y, state = self.lstm(self.embedding(tokens), state)
        return self.head(y[-1, 0]), state


def from_checkpoint(path: str) -> dict[str, Tensor]:
    """The state dict of training/, whose layers are modules of their own, under the names of `nn.LSTM`."""
    renamed = {}
    for name, tensor in torch.load(path, weights_only=True).items():
        if name.startswith("stack.layers."):
            number, parameter = name.removeprefix("stack.layers.").split(".forwards.")
            name = f"lstm.{parameter.removesuffix('_l0')}_l{number}"
        renamed[name] = tensor
    return renamed


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = ONEDNN  # type: ignore[assignment]
    app.state.codec = load(BUNDLE).task.codec
    model = CharacterModel(app.state.codec.table_rows)
    if CHECKPOINT:
        model.load_state_dict(from_checkpoint(CHECKPOINT))
    app.state.model = model.eval()
    app.state.turn = nullcontext() if AT_ONCE else Lock()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/generate")
def generate(prompt: Prompt, request: Request) -> dict[str, str]:
    codec, model = request.app.state.codec, request.app.state.model
    tokens = torch.from_numpy(codec.encode(prompt.inputs).rows).long()[:, None]  # (T, 1)
    pieces: list[str] = []
    state: State = None
    with request.app.state.turn, torch.no_grad():
        for _ in range(prompt.max_new_tokens):
            logits, state = model(tokens, state)
            logits[:NEVER_DRAWN] = -torch.inf
            tokens = torch.multinomial(torch.softmax(logits / prompt.temperature, dim=0), 1)[None]  # (1, 1)
            pieces.append(codec.decode(int(tokens)))
    return {"generated_text": "".join(pieces)}


@app.get("/readyz")
async def ready() -> None:
    return None
