"""What a recipe may ask of a network: every choice of architecture, with its default.

Knows names, numbers and which of them go together. Builds nothing.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

CellName = Literal["rnn", "rnn-relu", "lstm", "lstm-peephole", "lstm-coupled", "gru", "gru-textbook", "mlstm"]
SkipName = Literal["none", "residual", "highway", "dense"]
InitialName = Literal["orthogonal", "identity", "uniform"]
PoolingName = Literal["max", "mean", "last", "attention"]
SpellerName = Literal["lstm", "cnn"]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Fields of [architecture]; shares are probabilities of dropping."""

    cell: CellName = "lstm"
    layers: Size = 1
    hidden: Size = 200
    bidirectional: bool = True
    skip: SkipName = "none"  # what goes past a layer: Stack in training/recurrent.py
    initial: InitialName = "orthogonal"  # of the recurrent matrices
    forget_bias: float = 1.0  # Jozefowicz et al. 2015
    embedding: Size = 100
    characters: SpellerName = "lstm"  # how the letters of a word are read
    character_embedding: Size = 32
    character_hidden: Size = 50
    subword_embedding: Size = 64  # of the n-grams of a word, where the codec has them
    pooling: tuple[PoolingName, ...] = ("max", "last")  # how a whole is summed up, side by side
    crf: bool = False  # tags are decoded together, by a linear chain
    tied: bool = False  # a language model's output matrix is its embedding
    dropout: Share = 0.5
    variational: bool = False  # one mask for all steps (Gal and Ghahramani 2016)
    weight_dropout: Share = 0.0  # of the recurrent matrices (Merity et al. 2018)
    embedding_dropout: Share = 0.3
    word_dropout: Share = 0.0  # words, characters or bases that training replaces by the unknown one
    rare_dropout: Annotated[float, Field(ge=0)] = 0.0  # a: a word seen n times is unknown in a/(a+n) of the cases
    noise: Annotated[float, Field(ge=0)] = 0.0  # added to frames in training, in standard deviations
