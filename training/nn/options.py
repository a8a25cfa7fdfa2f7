"""The fields of [architecture] in a recipe, with their defaults."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CellName = Literal["rnn", "rnn-relu", "lstm", "lstm-peephole", "lstm-coupled", "gru", "gru-textbook", "mlstm"]
SkipName = Literal["none", "residual", "highway", "dense"]
InitialName = Literal["orthogonal", "identity", "uniform"]
PoolingName = Literal["max", "mean", "last", "attention"]
SpellingEncoderName = Literal["lstm", "cnn"]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Architecture(BaseModel):
    """Choices that define a network. A dropout field is the probability of dropping."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell: CellName = "lstm"  # equations in training/nn/cells.py
    layers: Size = 1  # stacked recurrent layers
    hidden: Size = 200  # units of a layer in each direction
    bidirectional: bool = True  # read in both directions; language models cannot
    skip: SkipName = "none"  # skip connections: see RecurrentStack
    initial: InitialName = "orthogonal"  # initial recurrent matrices: see CellInitialization
    forget_bias: float = 1.0  # initial bias of the forget gate (Jozefowicz et al. 2015)
    embedding: Size = 100  # width of the token vectors
    characters: SpellingEncoderName = "lstm"  # encoder of a word's characters
    character_embedding: Size = 32  # width of the character vectors
    character_hidden: Size = 50  # units of the character encoder
    subword_embedding: Size = 64  # of a word's n-grams, if the codec has subwords
    filters: tuple[Size, ...] = (16, 32, 64)  # of each convolution over a picture; the first ones halve its sides
    decoder_hidden: Size = 320  # units of the decoder that writes a translation
    attention: Annotated[int, Field(ge=0)] = 128  # units of the decoder's attention; 0: it reads the mean of the source
    pooling: tuple[PoolingName, ...] = ("max", "last")  # summaries of the sequence, concatenated
    crf: bool = False  # decode tags jointly with a linear-chain CRF
    tied: bool = False  # a language model's output matrix is its embedding
    dropout: Share = 0.5  # share dropped before upper layers and heads
    variational: bool = False  # one dropout mask for all steps (Gal and Ghahramani 2016)
    weight_dropout: Share = 0.0  # of recurrent matrices (Merity et al. 2018)
    embedding_dropout: Share = 0.3  # share dropped from the inputs of the first layer
    word_dropout: Share = 0.0  # share of words, characters or bases replaced by the unknown one in training
    rare_dropout: Annotated[float, Field(ge=0)] = 0.0  # a: a word with n occurrences is unknown in a/(a+n) of cases
    noise: Annotated[float, Field(ge=0)] = 0.0  # standard deviation of the noise added to frames in training
