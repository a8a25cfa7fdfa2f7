"""The fields of [architecture] and [training] in a recipe, with their defaults."""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

CellName = Literal["rnn", "rnn-relu", "lstm", "lstm-peephole", "lstm-coupled", "gru", "gru-textbook", "mlstm"]
SkipName = Literal["none", "residual", "highway", "dense"]
InitialName = Literal["orthogonal", "identity", "uniform"]
PoolingName = Literal["max", "mean", "last", "attention"]
SpellingEncoderName = Literal["lstm", "cnn"]
ScheduleName = Literal["cosine", "constant", "linear", "one-cycle", "plateau"]
OptimizerName = Literal["adamw", "sgd"]
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]
Size = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(ge=0, le=1)]
ClassWeights = Literal["none", "balanced"] | Part


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
    attention: Count = 128  # units of the decoder's attention; 0: it reads the mean of the source
    pooling: tuple[PoolingName, ...] = ("max", "last")  # summaries of the sequence, concatenated
    crf: bool = False  # decode tags jointly with a linear-chain CRF
    tied: bool = False  # a language model's output matrix is its embedding
    dropout: Share = 0.5  # share dropped before upper layers and heads
    variational: bool = False  # one dropout mask for all steps (Gal and Ghahramani 2016)
    weight_dropout: Share = 0.0  # of recurrent matrices (Merity et al. 2018)
    embedding_dropout: Share = 0.3  # share dropped from the inputs of the first layer
    word_dropout: Share = 0.0  # share of words, characters or bases replaced by the unknown one in training
    rare_dropout: Amount = 0.0  # a: a word with n occurrences is unknown in a/(a+n) of cases
    noise: Amount = 0.0  # standard deviation of the noise added to frames in training


class Training(BaseModel):
    """Choices of the training loop. A step is one update of the weights, after `accumulate` batches per process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Size = 20  # passes over the training data
    patience: Size = 5  # epochs without a better development score before stopping; ties count as not better
    seed: int = 1  # seed of initial weights, batch order and dropout

    optimizer: OptimizerName = Field(
        default="adamw",
        validation_alias=AliasChoices("optimizer", "optimiser"),  # the second in runs from before the rename
        description="adamw (Loshchilov and Hutter 2019), or sgd with `momentum`",
    )
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 2e-3  # largest rate; `find-lr` suggests one
    momentum: Share = 0.0  # momentum of sgd
    weight_decay: Amount = 0.0  # share of a weight, times the rate, lost in a step
    clip: Amount = 1.0  # largest norm of the gradient (Pascanu et al. 2013); 0: off
    omega: Amount = 0.0  # strength of the regularizer Ω (Pascanu et al. 2013); rnn and rnn-relu only
    accumulate: Size = 1  # batches per step: a larger batch without its memory

    schedule: ScheduleName = "cosine"  # learning-rate schedule, after the warm-up
    warmup_steps: Count = 100  # steps of linear rise; at most a tenth of the run
    plateau_patience: Size = 2  # plateau: epochs without a lower development loss before the rate is reduced
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5  # plateau: factor of each reduction

    average: Share = 0.0  # decay of the moving average of weights; 0: off
    average_after: Count = 0  # epochs before the plain mean of weights starts (Merity et al. 2018); 0: off
    average_stalled: Count = Field(
        default=0,
        description="the plain mean starts when the development loss exceeds the best of all epochs but the last n "
        "(the non-monotonic trigger of Merity et al. 2018, with n = 5); 0: off",
    )

    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # random share of the examples in each epoch (sequences)
    share_below: Count = 0  # `share` applies to examples with fewer steps; longer ones are always used; 0: all
    batch_tokens: Size = 1024  # padded tokens in a batch (sequences)
    streams: Size = 64  # parallel streams (language models)
    steps: Size = 128  # steps of truncated backpropagation (language models)
    fewest_steps: Count = Field(
        default=0,
        description="fewest batches of an epoch: for small data, they replace `batch_tokens` by less, or `streams` and "
        "`steps` by fewer; series give more random windows; 0: off",
    )
    candidates: Count = Field(
        default=0,
        description="words that a training batch chooses from, in addition to its own: half of them the most frequent, "
        "half random with their weight corrected (sampled softmax, Jean et al. 2015); 0: all words (fill)",
    )
    label_smoothing: Share = 0.0  # share of the target spread over all labels
    scheduled_sampling: Part = Field(
        default=0.0,
        description="share of the pieces before a step that are the network's own in the last epoch; it grows from 0 "
        "(translate; Bengio et al. 2015)",
    )
    margin: Amount = Field(
        default=0.0,
        description="nats by which a crf must prefer a step's label to O in training, so that it misses fewer spans "
        "(softmax-margin, Gimpel and Smith 2010)",
    )
    threshold: bool = Field(
        default=False,
        description="after training, change the score of O by the fewest nats with an F1 within one standard error of "
        "the best, on the examples that choose the epoch (tag)",
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="balanced: every label has the same total weight in the loss; a number n from 0 (none) to 1 "
        "(balanced): a label with a count c has the weight 1/cⁿ (not with a crf)",
    )

    device: DeviceName = "auto"  # auto: a GPU if there is one
    threads: Count = Field(
        default=0,
        description="threads of PyTorch; 0: one for layers of fewer than 192 units, else one per core. "
        "`OMP_NUM_THREADS` replaces the 0",
    )
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bfloat16 if the processor multiplies it and the network is large enough; on a GPU fp32",
    )
    deterministic: bool = False  # repeat runs bit for bit: one thread and deterministic operations

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(map(bool, (self.average, self.average_after, self.average_stalled))) > 1:
            raise ValueError("average, average_after and average_stalled exclude each other: set one of them")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(
                f"momentum {self.momentum} needs optimizer = 'sgd': set it, or leave momentum out (adamw has its own)"
            )
        if self.optimizer == "adamw" and self.learning_rate > 1:
            raise ValueError(
                f"learning_rate {self.learning_rate} exceeds 1, the limit for adamw: lower it, "
                "or set optimizer = 'sgd' (at most 100)"
            )
        return self
