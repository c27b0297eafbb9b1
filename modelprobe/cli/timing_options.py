"""The options by which `profile` runs a pass, and those of what it is timed against."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from modelprobe.cli.options import COUNTING, InputOptions, ModelOptions, option
from modelprobe.cli.training_options import FreezeOpt, LossOpt, OptimizerOpt
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.cost.memory.of_target import MemoryRequest
    from modelprobe.cost.timing.passes import TimingSetting

SecondsOpt = Annotated[
    float, option("--seconds", metavar="S", min=0.01, panel=COUNTING, help="About how long to take samples.")
]
ThreadsOpt = Annotated[int | None, option("--threads", metavar="N", panel=COUNTING, help="Threads on the CPU.")]
AutocastOpt = Annotated[
    bool, option("--amp", panel=COUNTING, help="Under torch.autocast: float16 on a GPU, bfloat16 on the CPU.")
]
ChannelsLastOpt = Annotated[
    bool, option("--channels-last", panel=COUNTING, help="Weights and images in the memory format channels_last.")
]
CompileOpt = Annotated[bool, option("--compile", panel=COUNTING, help="Compiled by torch.compile.")]
CudaGraphOpt = Annotated[
    bool, option("--cuda-graph", panel=COUNTING, help="Captured as a CUDA graph, launched at once; with --device cuda.")
]
StepTimedOpt = Annotated[
    bool, option("--train", panel=COUNTING, help="A training step: forward, loss, backward, update.")
]
TimedAgainstOpt = Annotated[
    str | None,
    option("--against", metavar="TARGET", panel=COUNTING, help="Time it in turn with another: faster or slower?"),
]
AgainstWithOpt = Annotated[
    str | None,
    option(
        "--against-with",
        metavar="SETTING[,SETTING]",
        panel=COUNTING,
        help="How the other is run, where that differs: channels-last,dtype=bfloat16. Alone: the same target so.",
    ),
]
SetBesideOpt = Annotated[
    list[str] | None,
    option(
        "--set-b",
        metavar="KEY=VALUE",
        panel=COUNTING,
        help="As --set, which is for both, but for the other alone. Repeatable.",
    ),
]
FailIfSlowerOpt = Annotated[
    str | None,
    option("--fail-if-slower", metavar="5%", panel=COUNTING, help="Exit with code 1 if TARGET takes that much longer."),
]


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How a pass is run."""

    threads: ThreadsOpt = None
    amp: AutocastOpt = False
    channels_last: ChannelsLastOpt = False
    compile: CompileOpt = False
    cuda_graph: CudaGraphOpt = False
    train: StepTimedOpt = False
    optimizer: OptimizerOpt = "sgd"
    freeze: FreezeOpt = None
    loss: LossOpt = None

    def first_given(self) -> str:
        """The first option that was given, as it is typed."""
        names = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return f"--{names[0].replace('_', '-')}"

    def setting(self) -> TimingSetting:
        """How a pass is run, for the engine."""
        from modelprobe.cost.timing.passes import TimingSetting

        return TimingSetting(self.threads, self.amp, self.channels_last, self.compile, self.cuda_graph)

    def run(self) -> MemoryRequest:
        """Inference or a training step. Raises BadInput for what is of a step only, and for a loss that is none."""
        from modelprobe.cost.memory.of_target import MemoryRequest
        from modelprobe.model.inputs.from_function import load_function

        of_training = {"--optimizer": self.optimizer != "sgd", "--freeze": self.freeze, "--loss": self.loss}
        given = [name for name, value in of_training.items() if value]
        if given and not self.train:
            raise BadInput(f"{given[0]} is of a training step", "add --train")
        loss = load_function(self.loss, "--loss") if self.loss is not None else None
        return MemoryRequest(self.train, self.optimizer, self.freeze or (), loss)


@dataclass(frozen=True, kw_only=True)
class AgainstOptions:
    """What a model is timed against."""

    against: TimedAgainstOpt = None
    against_with: AgainstWithOpt = None
    set_b: SetBesideOpt = None
    fail_if_slower: FailIfSlowerOpt = None

    def is_asked(self) -> bool:
        """Whether there are two. Raises BadInput for a limit without another."""
        if self.against is None and self.against_with is None and self.set_b is None:
            if self.fail_if_slower is not None:
                raise BadInput(
                    "--fail-if-slower needs something to compare with", "add --against TARGET or --against-with SETTING"
                )
            return False
        return True

    def other(
        self, model: ModelOptions, inputs: InputOptions, timing: TimingOptions
    ) -> tuple[ModelOptions, InputOptions, TimingOptions]:
        """The other: like the first but for what was said of it. Raises BadInput for a setting that is not known."""
        own = {text.partition("=")[0] for text in self.set_b or ()}
        settings = [text for text in model.settings or () if text.partition("=")[0] not in own]
        settings += self.set_b or ()
        second = replace(model, target=self.against or model.target, settings=settings)
        of_input: dict[str, Any] = {}
        of_timing: dict[str, Any] = {}
        for text in (self.against_with or "").split(",") if self.against_with is not None else ():
            name, equals, value = text.strip().partition("=")
            if name in ("dtype", "device") and value:
                of_input[name] = value
            elif name == "threads" and value.isascii() and value.isdigit():
                of_timing[name] = int(value)
            elif name in SWITCHES and value in (SWITCH_VALUES if equals else ("",)):
                of_timing[SWITCHES[name]] = SWITCH_VALUES.get(value, True)
            else:
                known = f"dtype=NAME, device=NAME, threads=N, {', '.join(SWITCHES)} (or {next(iter(SWITCHES))}=no)"
                raise BadInput(f"--against-with {text.strip()!r} is no setting", f"it takes {known}")
        return second, replace(inputs, **of_input), replace(timing, **of_timing)


SWITCHES = {"amp": "amp", "channels-last": "channels_last", "compile": "compile", "cuda-graph": "cuda_graph"}
SWITCH_VALUES = {"yes": True, "no": False}
