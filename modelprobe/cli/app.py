"""The command line: the list of commands, and the one place where an error becomes a line and an exit code.

To add a command, follow the recipe in `modelprobe guide architecture`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import ModuleType
from typing import Annotated, Any, get_type_hints

import typer
import typer.core
import typer.main

from modelprobe import console
from modelprobe._version import __version__
from modelprobe.errors import EXIT_CODES, BadInput, Differs, ProbeError

COST, SEES, INSIDE = "What a model costs", "What a model sees", "Inside a run"
FILES, ZOO, OTHER = "Weight files", "Many models", "Other"
FOLDERS = {COST: "cost", SEES: "vision", INSIDE: "inside", FILES: "files", ZOO: "zoo", OTHER: "other"}
"""Panel of `--help` -> the folder of its commands in `cli/commands/`."""

COMMANDS: tuple[tuple[str, str, str], ...] = (
    # name (of its file too), the panel of `--help` it stands in (and with it its folder), its line there
    ("flops", COST, "MACs and FLOPs of a forward pass, and what was not counted."),
    ("training", COST, "MACs and FLOPs of a training step: forward, backward, optimizer."),
    ("memory", COST, "Peak memory of inference or training, and what is alive then."),
    ("trace", COST, "Every operator of a forward pass in order; the run as a file."),
    ("graph", COST, "The network as nested boxes: a page, a picture, or a file."),
    ("report", COST, "Everything about one model on one page, with its graph."),
    ("profile", COST, "Time of a forward pass: measured, or predicted for another GPU."),
    ("scaling", COST, "MACs against input size and batch, as an exact polynomial."),
    ("reconcile", COST, "What other tools count for the same model, and why it differs."),
    ("summary", COST, "Layers, shapes and costs of a model; contents of a weight file."),
    ("params", COST, "Parameters by module, dtype and weight-decay group; freezing."),
    ("buffers", COST, "Buffers: owner, shape, in the state_dict, updated by training."),
    ("features", SEES, "Layer activations for images: statistics, images, tensors."),
    ("predict", SEES, "Top classes for images, with labels and probabilities."),
    ("cam", SEES, "Class activation maps: where an image speaks for a class."),
    ("images", SEES, "A directory of images: sizes, broken files, mean and deviation."),
    ("attention", SEES, "Attention maps of transformers: heads, mean, rollout."),
    ("diverge", INSIDE, "The first operator where two models, or two runs, part."),
    ("health", INSIDE, "What is wrong: gradients, dead units, weights never trained."),
    ("scan", FILES, "Code that loading a weight file could execute."),
    ("keys", FILES, "Which keys of a weight file match a model, and why not."),
    ("repair", FILES, "Rename and convert keys of a weight file to match a model."),
    ("diff", FILES, "What differs between two weight files, in names and values."),
    ("convert", FILES, "A checkpoint as safetensors or torch file, whole or in shards."),
    ("compare", ZOO, "Models side by side, in total or layer by layer."),
    ("check", ZOO, "Budgets for CI: whether a model has become too dear."),
    ("models", ZOO, "Models of torchvision and timm by name, cost and accuracy."),
    ("identify", ZOO, "Which network a weight file is of, by names and shapes."),
    ("sweep", ZOO, "One question of many models, resumable, on many machines."),
    ("index", ZOO, "What models and identify know; adding a package's models."),
    ("cache", OTHER, "Runs that are kept, to answer again without torch."),
    ("env", OTHER, "Versions, devices and memory, for a bug report."),
    ("schema", OTHER, "The JSON Schema of what -f json prints."),
    ("guide", OTHER, "The chapters of the guide."),
)
"""The one command that is asked for is imported, so that neither `--help` nor a command waits for the others."""

REMOVED: dict[tuple[str, str], str] = {
    # (command, former option) -> what takes its place
    ("flops", "--train"): "`modelprobe training` counts a training step",
    ("flops", "--freeze"): "`modelprobe training` takes --freeze",
    ("flops", "--optimizer"): "`modelprobe training` takes --optimizer",
    ("flops", "--compare"): "`modelprobe reconcile` asks other tools",
    ("flops", "--timeout"): "`modelprobe reconcile` takes --timeout",
    ("flops", "--plot"): "`modelprobe scaling` takes --plot",
    ("keys", "--for"): "--arch names the network",
    ("repair", "--for"): "--arch names the network",
    ("repair", "--report"): "-f, --format is the report's format",
    ("convert", "--report"): "-f, --format is the report's format",
    ("cam", "--target"): "--class names the class",
    ("cam", "--layer"): "--layers names the layers",
}

INTERNAL, READER_LEFT, INTERRUPTED = 70, 141, 130

USAGE_ERRORS = tuple(
    base for base in typer.BadParameter.__mro__ if issubclass(base, Exception) and hasattr(base, "format_message")
)
"""Click's errors, reached through the one that Typer shows: newer Typers carry a Click of their own."""


def _without_bool(params: list[Any]) -> list[Any]:
    """The parameters of a command, with nothing after the names of switches, where Typer writes `<bool>`."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class _PlainCoercion:
    """Passes by what needs no converting: an option that is not there, text for text. Newer Typers build an adapter of
    pydantic for each option, which costs more than the rest of a command line."""

    def __init__(self, param: Any, adapter: Callable[[], Any]) -> None:
        annotation = param.type_descriptor.annotation
        self._adapter = adapter
        self._text = annotation is str and param.type_descriptor.parameter_info.parser is None
        self._texts = annotation == list[str] and param.type_descriptor.parameter_info.parser is None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of a parameter as its annotation has it."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if self._text and not several and type(value) is str:
            return value
        if self._texts and several and type(value) in (list, tuple) and all(type(item) is str for item in value):
            return list(value)
        return self._adapter().coerce(value, param=param, ctx=ctx)


def _without_adapters(params: list[Any]) -> list[Any]:
    """The parameters of a command, with adapters for the values alone that need one, where this Typer builds them."""
    for param in params:
        adapter = getattr(param, "get_runtime_param", None)
        if (
            adapter is not None
            and not isinstance(adapter, functools.partial)
            and hasattr(getattr(param, "type_descriptor", None), "annotation")
        ):
            param.get_runtime_param = functools.partial(_PlainCoercion, param, adapter)
    return params


class _Command(typer.core.TyperCommand):
    """A command that shows `--help` itself among the rare options."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = _without_adapters(_without_bool(list(super().get_params(ctx))))
        params[-1].rich_help_panel = "Rare options"  # Typer puts --help last
        return params


class _Commands(typer.core.TyperGroup):
    """A group that answers a misspelt command with the nearest names, and whose switches show no `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_adapters(_without_bool(list(super().get_params(ctx))))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if args and not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, list(self.commands), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(self.commands)}"
            raise BadInput(f"there is no command {name!r}", hint)
        return super().resolve_command(ctx, args)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"modelprobe {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error. May stand after the command too, as the next two."
        ),
    ] = False,
    color: Annotated[
        str,
        typer.Option("--color", metavar="|".join(console.COLOUR_CHOICES), help="When to color what is printed."),
    ] = "auto",
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="The answer, warnings and errors alone: no progress, no other notes."),
    ] = False,
) -> None:
    """Shown in `--help` alone: `--version` is dealt with by its callback, the others by `main`."""


def application(asked: str | None) -> typer.Typer:
    """The Typer app with the command `asked` for in full, and the names and help of the others; None: all in full."""
    app = typer.Typer(
        cls=_Commands,
        help="What does this PyTorch model cost, and what is in this weight file? Never silently wrong.",
        epilog="\n".join(("Exit codes:", *(f"  {code:<3} {meaning}" for code, meaning in EXIT_CODES.items()))),
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, panel, text in COMMANDS:
        if asked in (None, name):
            module = load_command(name)
            examples = "\n".join(("Examples:", *(f"  {line}" for line in getattr(module, "EXAMPLES", ()))))
            app.command(name, cls=_Command, rich_help_panel=panel, epilog=examples)(unfolded(module.command))
        else:
            app.command(name, rich_help_panel=panel, help=text)(_not_asked_for)
    return app


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups of options are options of their own, with those of the panel `RARE` at the end."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        found = _options_of(parameter.annotation)
        groups[name] = (parameter.annotation, [option.name for option in found])
        parameters += found
    parameters.sort(key=lambda parameter: _is_rare(parameter.annotation))  # stable: all others keep their order

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {name: group(**{field: values.pop(field) for field in taken}) for name, (group, taken) in groups.items()}
        command(**made, **values)

    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


def _is_rare(annotation: Any) -> bool:
    from modelprobe.cli.options import RARE

    return any(getattr(option, "rich_help_panel", None) == RARE for option in getattr(annotation, "__metadata__", ()))


def load_command(name: str) -> ModuleType:
    """The file of a command: `command`, whose docstring is its help, and `EXAMPLES`."""
    folder = next(FOLDERS[panel] for command, panel, _ in COMMANDS if command == name)
    return importlib.import_module(f"modelprobe.cli.commands.{folder}.{name}")


def _not_asked_for() -> None:
    """Stands for a command that only its line in `--help` is needed of."""
    raise AssertionError("only the command that was asked for is run")


def _command_in(arguments: Sequence[str]) -> str | None:
    """The command on the command line, "" for none; None while a shell completes one, which wants them all."""
    if any(variable.endswith("_COMPLETE") for variable in os.environ if variable.startswith("_")):
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), "")


@dataclass(frozen=True)
class CommonOptions:
    """The options of every command, which may stand before and after it."""

    debug: bool = False
    color: str = "auto"
    quiet: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Nothing but SystemExit of shell completion gets past it."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # help texts too must never fail on what an encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments, common = _without_common(given)
    except BadInput as error:
        return _explain(error)
    with console.as_asked(common.color, common.quiet), console.torch_announced():
        return _run(arguments, common.debug)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        code = _exit_code_of(arguments or ["--help"])
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - sorted in `_explain`, which lets nothing unknown pass in silence
        if debug and not isinstance(error, (SystemExit, BrokenPipeError)):
            for line in traceback.format_exc().splitlines():
                console.say(line)
        return _explain(error, arguments)
    return code


def _exit_code_of(arguments: list[str]) -> int:
    """The exit code; Typer returns the code of an early exit, and a command's own return value, which is None."""
    command = typer.main.get_command(application(_command_in(arguments)))
    code = command.main(args=arguments, prog_name="modelprobe", standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _without_common(arguments: list[str]) -> tuple[list[str], CommonOptions]:
    """`--debug`, `--quiet` and `--color` taken out wherever they stand before `--`. Raises BadInput for a colour."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept: list[str] = []
    debug, color, quiet = os.environ.get("MODELPROBE_DEBUG", "0") not in ("", "0"), "auto", False
    rest = iter(arguments[:end])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--debug":
            debug = True
        elif argument in ("--quiet", "-q"):
            quiet = True
        elif name == "--color":
            color = value if equals else next(rest, "")
        else:
            kept.append(argument)
    if color not in console.COLOUR_CHOICES:
        raise BadInput(f"--color {color!r} is not known", f"choose one of {', '.join(console.COLOUR_CHOICES)}")
    return kept + arguments[end:], CommonOptions(debug, color, quiet)


def _explain(error: BaseException, arguments: Sequence[str] = ()) -> int:
    """Say what went wrong on stderr, in one line and a hint; the exit code."""
    if isinstance(error, Differs):
        console.say(error.message)
        return error.exit_code
    if isinstance(error, ProbeError):
        console.complain(error.message, error.hint)
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        console.say("interrupted")
        return INTERRUPTED
    if _reader_left(error):
        console.silence(sys.stdout)
        return READER_LEFT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, USAGE_ERRORS):
        return _explain_usage(error, arguments)
    if isinstance(error, MemoryError):
        console.complain("out of memory", "a smaller --input or --batch, or --device meta, needs less")
        return 2
    text = " ".join(str(error).split())
    console.complain(
        f"internal error: {type(error).__name__}{': ' if text else ''}{text}",
        "run it again with --debug, and report what that shows together with `modelprobe env -f markdown`",
    )
    return INTERNAL


def _reader_left(error: BaseException) -> bool:
    """Typer turns a broken pipe into `sys.exit(1)`; what it was still stands behind that."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def _explain_usage(error: Any, arguments: Sequence[str]) -> int:
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    known = arguments[0] if arguments and arguments[0] in [name for name, *_ in COMMANDS] else ""
    path = getattr(getattr(error, "ctx", None), "command_path", f"modelprobe {known}".strip())
    option = getattr(error, "option_name", "")
    if (known, option) in REMOVED:
        console.complain(f"{known} has no option {option}", REMOVED[known, option])
    else:
        console.complain(message[:1].lower() + message[1:], f"{path} --help shows what it takes")
    return int(getattr(error, "exit_code", 2))
