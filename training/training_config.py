"""The fields of [training] in a recipe, with their defaults."""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

ScheduleName = Literal["cosine", "constant", "linear", "one-cycle", "plateau"]
OptimizerName = Literal["adamw", "sgd"]
ClassWeights = Literal["none", "balanced"] | Annotated[float, Field(ge=0, le=1)]
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]


class Training(BaseModel):
    """Choices of the training loop. A step is one update of the weights, after `accumulate` batches per process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1, description="passes over the training data")
    patience: int = Field(
        default=5,
        ge=1,
        description="epochs without a better development score before stopping; ties count as not better",
    )
    seed: int = Field(default=1, description="seed of initial weights, batch order and dropout")

    optimizer: OptimizerName = Field(
        default="adamw",
        validation_alias=AliasChoices("optimizer", "optimiser"),  # the second in runs from before the rename
        description="adamw (Loshchilov and Hutter 2019), or sgd with `momentum`",
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=100, description="largest rate; `find-lr` suggests one")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(default=0.0, ge=0, description="share of a weight, times the rate, lost in a step")
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient (Pascanu et al. 2013); 0: off")
    omega: float = Field(
        default=0.0, ge=0, description="strength of the regularizer Ω (Pascanu et al. 2013); rnn and rnn-relu only"
    )
    accumulate: int = Field(default=1, ge=1, description="batches per step: a larger batch without its memory")

    schedule: ScheduleName = Field(default="cosine", description="learning-rate schedule, after the warm-up")
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear rise; at most a tenth of the run")
    plateau_patience: int = Field(
        default=2, ge=1, description="plateau: epochs without a lower development loss before the rate is reduced"
    )
    plateau_factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: factor of each reduction")

    average: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of weights; 0: off")
    average_after: int = Field(
        default=0, ge=0, description="epochs before the plain mean of weights starts (Merity et al. 2018); 0: off"
    )
    average_stalled: int = Field(
        default=0,
        ge=0,
        description="the plain mean starts when the development loss exceeds the best of all epochs but the last n "
        "(the non-monotonic trigger of Merity et al. 2018, with n = 5); 0: off",
    )

    share: float = Field(default=1.0, gt=0, le=1, description="random share of the examples in each epoch (sequences)")
    share_below: int = Field(
        default=0, ge=0, description="`share` applies to examples with fewer steps; longer ones are always used; 0: all"
    )
    batch_tokens: int = Field(default=1024, ge=1, description="padded tokens in a batch (sequences)")
    streams: int = Field(default=64, ge=1, description="parallel streams (language models)")
    steps: int = Field(default=128, ge=1, description="steps of truncated backpropagation (language models)")
    fewest_steps: int = Field(
        default=0,
        ge=0,
        description="fewest batches of an epoch: for small data, they replace `batch_tokens` by less, or `streams` and "
        "`steps` by fewer; series give more random windows; 0: off",
    )
    candidates: int = Field(
        default=0,
        ge=0,
        description="words that a training batch chooses from, in addition to its own: half of them the most frequent, "
        "half random with their weight corrected (sampled softmax, Jean et al. 2015); 0: all words (fill)",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all labels")
    scheduled_sampling: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the pieces before a step that are the network's own in the last epoch; it grows from 0 "
        "(translate; Bengio et al. 2015)",
    )
    margin: float = Field(
        default=0.0,
        ge=0,
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

    device: DeviceName = Field(default="auto", description="auto: a GPU if there is one")
    threads: int = Field(
        default=0,
        ge=0,
        description="threads of PyTorch; 0: one for layers of fewer than 192 units, else one per core. "
        "`OMP_NUM_THREADS` replaces the 0",
    )
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bfloat16 if the processor multiplies it and the network is large enough; on a GPU fp32",
    )
    deterministic: bool = Field(
        default=False, description="repeat runs bit for bit: one thread and deterministic operations"
    )

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
