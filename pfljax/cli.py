"""The command line: `pfljax methods | run | compare | sweep | resume | bench | doctor`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table

from pfljax import benchmark, data, experiment, hosts, plots, process, results, sweeps
from pfljax.algorithms import METHODS
from pfljax.data.sources import NAMES
from pfljax.experiment import Config
from pfljax.results import Comparison, Result
from pfljax.sweeps import spaces

_OPTIONAL = {"sklearn": "demo", "matplotlib": "plot", "pandas": "results", "tensorflow_datasets": "tfds"}
_OPTIONAL |= {"optuna": "search", "submitit": "cluster"}
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
    if unknown:
        parser.error(f"unknown argument {unknown[0]!r}; see pfljax {options.command} --help")
    options.overrides = overrides
    if not getattr(options, "distributed", False):
        return guarded(lambda: options.run(options), debug=options.debug)
    return guarded(lambda: _together(options), debug=options.debug)


def guarded(program: Callable[[], None], *, debug: bool = False) -> int:
    """Runs a program; a failure is one line on the standard error (with `debug` the traceback).

    Returns:
      The status for the shell: 0, 1 for a failure, 130 if interrupted.
    """
    try:
        program()
    except KeyboardInterrupt:
        print("interrupted; if an --out was given, continue with pfljax resume DIR", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, _EXPECTED) else f"{type(error).__name__}: "
        print(f"pfljax: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _together(options: argparse.Namespace) -> None:
    """The command as one process of several: all of them end when one fails."""
    hosts.join(options.coordinator, options.processes, options.process)
    with hosts.bound(f"pfljax resume {options.out} --distributed"):
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


def _values(path: str | None, overrides: Sequence[str]) -> ConfigDict:
    config = ConfigDict() if path is None else _get_config(path)
    for text in overrides:
        name, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            raise ValueError(f"{text}: write --config.{name}=VALUE")
        _assign(config, name.split("."), spaces.literal(value), text)
    return config


def _get_config(path: str) -> ConfigDict:
    name, colon, argument = path.partition(".py:")
    file = Path(name + ".py" if colon else path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no configuration file {file}")
    spec = importlib.util.spec_from_file_location("pfljax_config", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file: name one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{file} is not valid Python: {error}") from error
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file} defines no get_config()")
    return ConfigDict(module.get_config(argument) if colon else module.get_config())


def _assign(config: ConfigDict, path: Sequence[str], value: Any, text: str) -> None:
    """Sets a field, new ones too: whether they exist is checked on the whole."""
    *sections, last = path
    for name in sections:
        if name not in config:
            with config.unlocked():
                config[name] = ConfigDict()
        if not isinstance(section := config[name], ConfigDict):
            raise ValueError(f"{text}: {name!r} is a value, not a section")
        config = section
    with config.unlocked(), config.ignore_type():
        config[last] = value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pfljax", description="A simulator for personalized federated learning.")
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
        added.add_argument("--out", metavar="DIR", help="folder for results and checkpoints; printed only if left out")
        added.add_argument("--quiet", action="store_true", help="no progress bar")
        added.epilog = "override any field: --config.algorithm.lam=0.5 --config.run.rounds=100"

    def several(added: argparse.ArgumentParser) -> None:
        group = added.add_argument_group("several processes or hosts")
        group.add_argument("--distributed", action="store_true", help="be one of several processes that share the run")
        group.add_argument(
            "--coordinator", metavar="HOST:PORT", help="of process 0; found out under SLURM, on TPU pods"
        )
        group.add_argument("--processes", type=int, metavar="N", help="how many")
        group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")

    methods = command("methods", _methods, "list the methods")
    methods.add_argument("--json", action="store_true", help="for programs")
    methods.add_argument("--markdown", action="store_true", help="for the README")
    run = command("run", _run, "run one method")
    configured(run)
    several(run)
    compare = command("compare", _compare, "run several methods on the same data")
    configured(compare)
    several(compare)
    compare.add_argument("--methods", required=True, metavar="A,B,...", help="names of methods, see pfljax methods")
    swept = command("sweep", _sweep, "run many points of one experiment, or look at such a sweep")
    configured(swept)
    sweeps.add_arguments(swept)
    resume = command("resume", _resume, "continue an interrupted run, comparison or sweep")
    resume.add_argument("out", metavar="DIR", help="its folder")
    resume.add_argument("--quiet", action="store_true", help="no progress bar")
    several(resume)
    benchmark.add_arguments(
        command("bench", _bench, "time workloads, beside other simulators where they are installed")
    )
    command("doctor", _doctor, "tell what is installed and found")
    return parser


def _methods(options: argparse.Namespace) -> None:
    rows = {
        name: {"family": row.family, "about": _about(row.factory), "sweep": dict(row.sweep), "needs": list(row.needs)}
        for name, row in METHODS.items()
    }
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    if options.markdown:
        print("| method | what it does | hyperparameters |\n|---|---|---|")
        for name, row in rows.items():
            about = row["about"].replace("|", "\\|")
            print(f"| `{name}` | {about} | {', '.join(f'`{key}`' for key in row['sweep'])} |")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    table.add_column("hyperparameters")
    for name, row in rows.items():
        table.add_row(name, row["about"], ", ".join(row["sweep"]))
    Console().print(table)


def _about(factory: Callable) -> str:
    """The first sentence of the docstring, without its formulas."""
    return (factory.__doc__ or "").strip().split("\n")[0].split(": ")[0].replace("`", "").rstrip(".")


def _run(options: argparse.Namespace) -> None:
    config = read_config(options.config, options.overrides)
    _report(experiment.run(config, options.out, progress=not options.quiet), config, options.out)


def _compare(options: argparse.Namespace) -> None:
    config = read_config(options.config, options.overrides)
    methods = [name for name in options.methods.split(",") if name]
    _report(experiment.compare_methods(config, methods, options.out, progress=not options.quiet), config, options.out)


def _sweep(options: argparse.Namespace) -> None:
    sweeps.from_command_line(options, lambda: _values(options.config, options.overrides).to_dict())


def _resume(options: argparse.Namespace) -> None:
    if sweeps.is_sweep(options.out):
        sweeps.print_sweep(sweeps.resume(options.out, progress=not options.quiet))
        return
    result = experiment.resume(options.out, progress=not options.quiet)
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
        plots.save(comparison, Path(out) / "comparison.png")
        written += ", comparison.png"
    console.print(f"{written} in {out}", highlight=False, soft_wrap=True)


def _bench(options: argparse.Namespace) -> None:
    benchmark.from_command_line(options)


def _doctor(options: argparse.Namespace) -> None:
    del options
    process.begin()
    table = Table(show_header=False, box=None)
    for name, version in results.versions().items():
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
