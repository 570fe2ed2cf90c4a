"""The command line, `pfljax`: methods, config, data, run, compare, table, sweep, resume, reproduce, bench, doctor."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pfljax import benchmark, checks, data, experiment, files, reproduce
from pfljax.algorithms import FAMILIES
from pfljax.data.sources import NAMES
from pfljax.engine import hosts, process
from pfljax.experiment import catalogue, datasets, describing, dropouts, listing, sweeps
from pfljax.experiment.build import load_data
from pfljax.experiment.config import Config
from pfljax.experiment.sweeps import spaces
from pfljax.results import plots
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result, versions

_OPTIONAL = {"sklearn": "demo", "matplotlib": "plot", "pandas": "results", "tensorflow_datasets": "tfds"}
_OPTIONAL |= {"optuna": "search", "submitit": "cluster"}
_SHOWN = ("objectives", "fairness")
EXAMPLE = "--config.algorithm.name=ditto --config.algorithm.lam=0.5 --config.run.rounds=100"
"""Overrides as the help shows them."""
_EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; a failure is one line on the standard error and a status that is not 0."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    overrides = [text for text in arguments if text.startswith("--config.")]
    options, unknown = parser.parse_known_args([text for text in arguments if not text.startswith("--config.")])
    if options.command is None:
        parser.print_help()
        return 0
    if "config" not in options:
        unknown += overrides
    if unknown and all("=" in text for text in overrides):
        parser.error(
            f"unknown argument {unknown[0]!r}{_meant(unknown[0], options)}; see pfljax {options.command} --help"
        )
    options.overrides = overrides
    program = _together if getattr(options, "distributed", False) else options.run
    return guarded(lambda: program(options), debug=options.debug, remedy=_remedy(options))


def guarded(program: Callable[[], None], *, debug: bool = False, remedy: str = "") -> int:
    """Runs a program; a failure is one line on the standard error (with `debug` the traceback).

    Args:
      program: what to run.
      debug: whether errors are raised.
      remedy: said when it is interrupted, by Ctrl-C or SIGTERM.

    Returns:
      The status for the shell: 0, 1 for a failure, 130 and 143 if interrupted, 141 if nobody reads the output.
    """
    try:
        with files.interruptible():
            program()
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        how = "terminated" if isinstance(error, files.Terminated) else "interrupted"
        print(f"{how}; {remedy}" if remedy else how, file=sys.stderr)
        return files.status(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, _EXPECTED) else f"{type(error).__name__}: "
        print(f"pfljax: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _meant(text: str, options: argparse.Namespace) -> str:
    """The nearest option of the command, or field of a configuration."""
    known = {f"--{name.replace('_', '-')}": f"--{name.replace('_', '-')}" for name in vars(options)}
    if "config" in options:
        known |= {f"--{field.name.rpartition('.')[2]}": f"--config.{field.name}" for field in listing.fields()}
    close = checks.near(text.partition("=")[0], known) if text.startswith("--") else None
    return "" if close is None else f": did you mean {known[close]}?"


def _remedy(options: argparse.Namespace) -> str:
    """How an interrupted command is continued."""
    if "out" not in options or getattr(options, "action", None):
        return ""
    if not options.out:
        return "nothing was kept: --out=DIR keeps results and checkpoints"
    distributed = " --distributed" * getattr(options, "distributed", False)
    return f"continue with pfljax resume {shlex.quote(options.out)}{distributed}"


def _together(options: argparse.Namespace) -> None:
    """The command as one process of several: all of them end when one fails."""
    hosts.join(options.coordinator, options.processes, options.process)
    with files.interruptible(), hosts.bound(_remedy(options)):  # JAX has taken SIGTERM for itself
        options.run(options)


def read_config(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a file, changed and checked.

    Args:
      path: a Python file whose `get_config()` returns a `ConfigDict`, optionally followed by `:argument` for
        `get_config(argument)`; the defaults if None.
      overrides: texts `--config.section.name=value`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it has no `get_config`, or the configuration is not valid.
    """
    return experiment.from_config_dict(_values(path, overrides))


def _values(path: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    return experiment.overridden({} if path is None else _get_config(path), _changes(overrides))


def _changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Fields and their new values."""
    changes = {}
    for text in overrides:
        name, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{text}: write --config.{name}=VALUE")
        changes[name] = spaces.literal(value)
    return changes


def _get_config(path: str) -> dict[str, Any]:
    name, colon, argument = path.partition(".py:")
    file = Path(name + ".py" if colon else path)
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name a Python file that defines get_config()")
    if not file.is_file():
        raise FileNotFoundError(f"there is no configuration file {file}")
    spec = importlib.util.spec_from_file_location("pfljax_config", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file: name one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "get_config", None)
        if not callable(make):
            raise ValueError(f"{file} defines no get_config()")
        if colon and not inspect.signature(make).parameters:
            raise ValueError(f"get_config() of {file} takes no argument: leave out :{argument}")
        made = make(argument) if colon else make()
    except SyntaxError as error:
        raise ValueError(f"{file} is not valid Python: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        if not lines:
            raise
        raise ValueError(f"{file}, line {lines[-1]}: {type(error).__name__}: {error}") from error
    if not isinstance(made, Mapping | ConfigDict):
        raise ValueError(f"get_config() of {file} returns {made!r}: it must return a ConfigDict or a dictionary")
    return made.to_dict() if isinstance(made, ConfigDict) else dict(made)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pfljax", description="A simulator for personalized federated learning.")
    parser.add_argument("--version", action="version", version=f"pfljax {versions()['pfljax']}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(run=run)
        return added

    def configured(added: argparse.ArgumentParser) -> None:
        added.add_argument("--config", metavar="FILE[:ARG]", help="configuration; the digits quickstart if left out")
        added.add_argument(
            "--out", type=_folder, metavar="DIR", help="folder for results and checkpoints; printed only if left out"
        )
        added.add_argument("--quiet", action="store_true", help="no progress bar")
        added.epilog = f"override any field (pfljax config lists them): {EXAMPLE}"

    def several(added: argparse.ArgumentParser) -> None:
        group = added.add_argument_group("several processes or hosts")
        group.add_argument("--distributed", action="store_true", help="be one of several processes that share the run")
        group.add_argument(
            "--coordinator", metavar="HOST:PORT", help="of process 0; found out under SLURM, on TPU pods"
        )
        group.add_argument("--processes", type=int, metavar="N", help="how many")
        group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")

    methods = command("methods", _methods, "list the methods, or tell all about one")
    methods.add_argument("name", nargs="?", metavar="NAME", help="its equations, arguments, wire, needs and source")
    methods.add_argument("--family", metavar="NAME", help="those of one family")
    methods.add_argument("--json", action="store_true", help="for programs")
    methods.add_argument("--markdown", action="store_true", help="for the README")
    fields = command("config", _config, "list the fields of a configuration: types, defaults, meanings")
    fields.add_argument("--method", metavar="NAME", help="those that this method reads, with its options")
    fields.add_argument("--json", action="store_true", help="for programs")
    run = command("run", _run, "run one method")
    configured(run)
    several(run)
    compare = command("compare", _compare, "run several methods on the same data")
    configured(compare)
    several(compare)
    compare.add_argument(
        "--methods",
        required=True,
        metavar="A,B,...",
        help="names of methods or of families, or all; see pfljax methods",
    )
    compare.add_argument("--seeds", metavar="0:3", help="means and intervals over runs with these seeds")
    compare.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="METHOD.NAME=A,B",
        help="values of which the best on validation examples is taken; may be repeated",
    )
    tabled = command("table", _table, "write the table of a run, comparison or sweep")
    tabled.add_argument("folder", metavar="DIR", help="its folder")
    tabled.add_argument("--format", choices=("text", "latex", "markdown", "csv"), default="text")
    tabled.add_argument("--metric", help="what clients are compared by; with - before it where less is better")
    tabled.add_argument("--select", choices=("last", "best_validation", "best_test"), help="which round or setting")
    tabled.add_argument("--columns", metavar="A,B,...", help="of a run or comparison, such as mean,worst,sent")
    tabled.add_argument(
        "--show", choices=_SHOWN, help="the server model, personal ones and what it took; who fares how"
    )
    tabled.add_argument(
        "--target", type=float, metavar="X", help="of the objectives; 95 %% of the best mean if left out"
    )
    swept = command("sweep", _sweep, "run many points of one experiment, or look at such a sweep")
    configured(swept)
    sweeps.add_arguments(swept)
    resume = command("resume", _resume, "continue a run, comparison or sweep; --rounds for more")
    resume.add_argument("out", metavar="DIR", help="its folder")
    resume.add_argument("--rounds", type=int, metavar="N", help="rounds in all, if more than it was begun with")
    resume.add_argument("--quiet", action="store_true", help="no progress bar")
    several(resume)
    export = command("export", _export, "write the models that the clients of a run deploy")
    export.add_argument("folder", metavar="DIR", help="of a run, or of one method of a comparison")
    export.add_argument(
        "--client", action="append", metavar="NAME", help="whose model; may be repeated; all if left out"
    )
    export.add_argument("--out", required=True, metavar="DIR", help="where each client gets a folder of its own")
    export.epilog = "Each folder has parameters and a compiled function for programs that know JAX, not this package."
    reproduce.add_arguments(command("reproduce", _reproduce, "run a published table, and methods in its protocol"))
    datasets.add_arguments(command("data", _data, "list data sets, show one, prepare a copy, or describe a federation"))
    dropouts.add_arguments(command("dropouts", _dropouts, "run methods at several rates of dropouts"))
    benchmark.add_arguments(command("bench", _bench, "time workloads, in turn with the machine's own matrix products"))
    command("doctor", _doctor, "tell what is installed and found")
    return parser


def _methods(options: argparse.Namespace) -> None:
    if options.name:
        print(catalogue.page(options.name))
        return
    listed = catalogue.entries(options.family)
    if options.json:
        print(json.dumps({name: entry._asdict() for name, entry in listed.items()}, indent=2))
        return
    families = {family: {n: e for n, e in listed.items() if e.family == family} for family in FAMILIES}
    families = {family: rows for family, rows in families.items() if rows}
    if options.markdown:
        print("| family | when | methods |\n|---|---|---|")
        for family, rows in families.items():
            print(f"| {family} | {FAMILIES[family]} | {', '.join(f'`{name}`' for name in rows)} |")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("hyperparameters")
    for family, rows in families.items():
        table.add_row(f"[bold]{family}[/]", f"[italic]{FAMILIES[family]}[/]", "")
        for name, entry in rows.items():
            table.add_row(f"  {name}", escape(entry.about), ", ".join(entry.sweep))
        table.add_section()
    Console().print(table)


def _config(options: argparse.Namespace) -> None:
    listed = listing.fields(options.method)
    if options.json:
        print(json.dumps([field._asdict() for field in listed], indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("default", max_width=12)
    table.add_column("type and meaning", overflow="fold")
    for field in listed:
        table.add_row(field.name, field.shown, f"{field.type}: {field.meaning}" if field.meaning else field.type)
    Console().print(table)


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a folder, or leave it out")
    return text


def _run(options: argparse.Namespace) -> None:
    config = read_config(options.config, options.overrides)
    experiment.check_effect(config, [config.algorithm.name], _changes(options.overrides))
    _report(experiment.run(config, options.out, progress=not options.quiet), config, options.out)


def _compare(options: argparse.Namespace) -> None:
    config = read_config(options.config, options.overrides)
    methods = catalogue.named(options.methods)
    experiment.check_effect(config, methods, _changes(options.overrides))
    seeds = options.seeds and spaces.parse(f"run.seed={options.seeds}")[1]
    given: dict[str, Any] = {"seeds": seeds, "tune": _tuned(options.tune), "progress": not options.quiet}
    _report(experiment.compare_methods(config, methods, options.out, **given), config, options.out)


def _tuned(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> number -> its values, from `METHOD.NAME=VALUES`."""
    tuned: dict[str, dict[str, Any]] = {}
    for name, values in map(spaces.parse, texts):
        method, dot, number = name.partition(".")
        if not dot:
            raise ValueError(f"--tune {name}: write --tune METHOD.NAME=VALUES, such as --tune ditto.lam=0.1,1")
        tuned.setdefault(method, {})[number] = values
    return tuned


def _sweep(options: argparse.Namespace) -> None:
    sweeps.from_command_line(options, lambda: (_values(options.config, options.overrides), _changes(options.overrides)))


def _resume(options: argparse.Namespace) -> None:
    if sweeps.is_sweep(options.out):
        if options.rounds is not None:
            raise ValueError(f"--rounds={options.rounds} is for runs and comparisons, and {options.out} holds a sweep")
        sweeps.print_sweep(sweeps.resume(options.out, progress=not options.quiet))
        return
    result = experiment.resume(options.out, rounds=options.rounds, progress=not options.quiet)
    begun = next(iter(result.values())) if isinstance(result, Comparison) else result
    _report(result, experiment.from_config_dict(begun.config), options.out)


def _report(result: Result | Comparison, config: Config, out: str | None) -> None:
    if not hosts.leads():
        return
    comparison = result if isinstance(result, Comparison) else Comparison({result.method: result})
    console = Console()
    console.print(comparison.table(select=config.run.select))
    if out is None:
        return
    written = "summary.json"
    if importlib.util.find_spec("matplotlib"):
        plots.save(comparison.runs, Path(out) / "comparison.png")
        written += ", comparison.png"
    console.print(f"{written} in {out}", highlight=False, soft_wrap=True)


def _table(options: argparse.Namespace) -> None:
    folder, select, metric = Path(options.folder), options.select, options.metric
    columns = options.columns.split(",") if options.columns else None
    if sweeps.is_sweep(folder):
        if columns or options.show or select == "last":
            raise ValueError(f"{folder} holds a sweep: leave out --columns, --show and --select=last")
        table = sweeps.load(folder).table(select, metric=metric)
    else:
        alone = (folder / "clients.npz").is_file()
        comparison = Comparison.load(folder) if not alone else Comparison({(run := Result.load(folder)).method: run})
        chosen: dict[str, Any] = {"select": select or "last", "metric": metric}
        if options.target is not None and options.show != "objectives":
            raise ValueError(f"--target={options.target} is for --show=objectives: leave it out")
        if options.show and columns:
            raise ValueError(f"--show={options.show} has columns of its own: leave out --columns")
        if options.show == "objectives":
            table = comparison.objectives(options.target, **chosen)
        else:
            table = comparison.fairness(**chosen) if options.show else comparison.table(columns, **chosen)
    if options.format == "text":
        Console().print(table)
    else:
        print(getattr(table, options.format)(), end="")


def _export(options: argparse.Namespace) -> None:
    Result.load(options.folder)
    result = experiment.resume(options.folder)
    models = result.models if isinstance(result, Result) else None
    if models is None:
        raise ValueError(f"{options.folder} holds a comparison: name the folder of one of its methods")
    for name in options.client or models:
        models[checks.choice(name, models, "--client")].save(Path(options.out) / quote(name, safe=" "))
    print(f"{len(options.client or models)} models in {options.out}")


def _reproduce(options: argparse.Namespace) -> None:
    reproduce.from_command_line(options)


def _data(options: argparse.Namespace) -> None:
    if options.action != "describe":
        datasets.from_command_line(options)
        return
    federation = load_data(read_config(options.config, options.overrides).data)
    print("\n".join(describing.described(federation, options.epsilon)))
    if options.draw:
        print(describing.save(federation, options.draw))


def _dropouts(options: argparse.Namespace) -> None:
    dropouts.from_command_line(options, lambda: read_config(options.config, options.overrides))


def _bench(options: argparse.Namespace) -> None:
    benchmark.from_command_line(options)


def _doctor(options: argparse.Namespace) -> None:
    del options
    process.begin()
    table = Table(show_header=False, box=None)
    for name, version in versions().items():
        table.add_row(name, version)
    for package, extra in _OPTIONAL.items():
        table.add_row(package, "found" if importlib.util.find_spec(package) else f"pip install 'pfljax[{extra}]'")
    table.add_row("devices", ", ".join(str(device) for device in jax.devices()))
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    table.add_row("compilation cache", cache or "none")
    table.add_row("PFLJAX_DATA", os.environ.get("PFLJAX_DATA", "not set"))
    for name in NAMES:
        table.add_row(f"data {name}", _found(name))
    Console().print(table)


def _found(name: str) -> str:
    try:
        return f"{len(data.load(name, source='files')):,} examples"
    except (FileNotFoundError, ImportError):
        return "not found"
    except ValueError as error:
        return f"damaged: {error}"


if __name__ == "__main__":
    sys.exit(main())
