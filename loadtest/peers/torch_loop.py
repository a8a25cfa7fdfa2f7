"""Generation as it is usually served: FastAPI, PyTorch, and a loop over the tokens of one text.

python -m uvicorn loadtest.peers.torch_loop:app --no-access-log --port 8000

A `def` route runs each request by itself in FastAPI's thread pool, one token per step, sampled by temperature. The
layers are those of models/zoo/shakespeare. PEER_CHECKPOINT names the state dict that `make train RECIPE=shakespeare`
writes. Without it the weights are random, which is as fast. PEER_ONEDNN=0 disables oneDNN, which packs the weights of
an LSTM at every call; the loop is far faster without it. PEER_AT_ONCE=0 generates one text after the other instead of
up to forty in threads. The benchmark measures all three.
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
NEVER_SAMPLED = 2  # the first rows of the vocabulary: padding and unknown

State = tuple[Tensor, Tensor] | None


class PromptBody(BaseModel):
    inputs: str
    max_new_tokens: int = 100
    temperature: float = 1.0


class TorchCharacterModel(nn.Module):
    """Embedding, LSTM and logits. T steps, B = 1, V vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits (V,) of the token after `tokens` (T, 1), and the state."""
        y, state = self.lstm(self.embedding(tokens), state)
        return self.head(y[-1, 0]), state


def from_checkpoint(path: str) -> dict[str, Tensor]:
    """Return the state dict of training/ with the names of `nn.LSTM`."""
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
    model = TorchCharacterModel(app.state.codec.table_rows)
    if CHECKPOINT:
        model.load_state_dict(from_checkpoint(CHECKPOINT))
    app.state.model = model.eval()
    app.state.turn = nullcontext() if AT_ONCE else Lock()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/generate")
def generate(prompt: PromptBody, request: Request) -> dict[str, str]:
    codec, model = request.app.state.codec, request.app.state.model
    tokens = torch.from_numpy(codec.encode(prompt.inputs).rows).long()[:, None]  # (T, 1)
    pieces: list[str] = []
    state: State = None
    with request.app.state.turn, torch.no_grad():
        for _ in range(prompt.max_new_tokens):
            logits, state = model(tokens, state)
            logits[:NEVER_SAMPLED] = -torch.inf
            tokens = torch.multinomial(torch.softmax(logits / prompt.temperature, dim=0), 1)[None]  # (1, 1)
            pieces.append(codec.decode(int(tokens)))
    return {"generated_text": "".join(pieces)}


@app.get("/readyz")
async def ready() -> None:
    return None
