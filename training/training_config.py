"""How the weights are found: every choice of the training loop, with its default. Fields of [training] in a recipe.

Knows names, numbers and which of them go together. Trains nothing.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ScheduleName = Literal["cosine", "constant", "linear", "one-cycle", "plateau"]
OptimiserName = Literal["adamw", "sgd"]
WeightsName = Literal["none", "balanced"]
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]


class Training(BaseModel):
    """Fields of [training]. A step is one move of the optimiser, after `accumulate` batches in each process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1, description="passes over the training data")
    patience: int = Field(default=5, ge=1, description="epochs without a better development score before stopping")
    seed: int = Field(default=1, description="of initial weights, order of batches and dropout")

    optimiser: OptimiserName = Field(
        default="adamw", description="adamw (Loshchilov and Hutter 2019), or sgd with `momentum`"
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=100, description="the largest; `rate` suggests one")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of sgd; adamw has its own")
    weight_decay: float = Field(default=0.0, ge=0, description="share of a weight, times the rate, lost in a step")
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient (Pascanu et al. 2013); 0 is off")
    omega: float = Field(
        default=0.0, ge=0, description="weight of the regulariser Ω (Pascanu et al. 2013); rnn, rnn-relu"
    )
    accumulate: int = Field(default=1, ge=1, description="batches a step: a larger batch without its memory")

    schedule: ScheduleName = Field(default="cosine", description="of the learning rate: training/schedules.py")
    warmup_steps: int = Field(default=100, ge=0, description="steps of linear rise, a tenth of the run at most")
    plateau_patience: int = Field(
        default=2, ge=1, description="plateau: epochs without a lower development loss before the rate is cut"
    )
    plateau_factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: what the rate is multiplied by")

    average: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of weights; 0 is none")
    average_after: int = Field(
        default=0,
        ge=0,
        description="epochs after which the plain mean of weights begins (Merity et al. 2018); 0: never",
    )
    average_stalled: int = Field(
        default=0,
        ge=0,
        description="the plain mean begins once the development loss is above the best of all epochs but the last so "
        "many (the non-monotonic trigger of Merity et al. 2018, who take 5); 0: never",
    )

    share: float = Field(
        default=1.0, gt=0, le=1, description="share of the examples that an epoch draws, others each time (sequences)"
    )
    share_below: int = Field(
        default=0, ge=0, description="only examples of fewer steps are drawn by `share`, longer ones always; 0: all"
    )
    batch_tokens: int = Field(default=1024, ge=1, description="padded tokens in a batch (sequences)")
    streams: int = Field(default=64, ge=1, description="parallel streams (language models)")
    steps: int = Field(default=128, ge=1, description="steps of truncated back-propagation (language models)")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target given to all labels")
    margin: float = Field(
        default=0.0,
        ge=0,
        description="nats by which a crf must prefer a step's label to O in training, so that fewer spans are missed "
        "(softmax-margin, Gimpel and Smith 2010)",
    )
    class_weights: WeightsName = Field(
        default="none", description="balanced: every label weighs the same in the loss, however rare (not with a crf)"
    )

    device: DeviceName = Field(default="auto", description="where the steps are taken; auto: on a GPU if there is one")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bfloat16 where the processor multiplies it and the network is large enough; on a GPU fp32",
    )
    deterministic: bool = Field(
        default=False, description="the same bits on a repeat: one thread, and only operations that have one result"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(map(bool, (self.average, self.average_after, self.average_stalled))) > 1:
            raise ValueError("average, average_after and average_stalled are three ways to average: set one of them")
        if self.optimiser == "adamw" and self.momentum:
            raise ValueError(
                f"momentum {self.momentum} is for sgd: set optimiser = 'sgd', or leave momentum out (adamw has its own)"
            )
        if self.optimiser == "adamw" and self.learning_rate > 1:
            raise ValueError(f"learning_rate {self.learning_rate} is too large for adamw: at most 1 (sgd: 100)")
        return self
