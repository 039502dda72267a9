"""The command line. Exit codes: 0 done; 1 failed; 2 wrong usage, config or input; 3 done, and leakage was found;
4 done, no leakage found, but rows were set aside that nobody could score; 5 stopped by its budget; 143 by SIGTERM."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from finf_core.errors import CheckpointError, FinfError, InputError
from finf_core.report.visible import visible_line
from flows.environment import set_environment
from flows.stop import StoppedError, say_stopped, stop_on_sigterm
from flows.terminal import prepare_terminal, show_error, show_json, show_text

FAILED, WRONG_INPUT, FOUND_LEAKAGE, NOT_ALL_SCORED, BUDGET_REACHED = 1, 2, 3, 4, 5

app = typer.Typer(
    name="finf",
    help="Which rows of the training corpus is a model's behaviour on this test example coupled to?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Argument(help="CONFIG.toml; `finf init scan` writes one.")]
OptionalConfig = Annotated[Path | None, typer.Argument(help="CONFIG.toml; or use --preset.")]
Run = Annotated[str, typer.Argument(help="The run's folder or s3:// URI.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]
Store = Annotated[str, typer.Option(help="Folder or s3:// URI that holds runs and the cache.")]
Actors = Annotated[int | None, typer.Option(min=1, help="Ray actors; default: one per GPU, else two.")]
RayAddress = Annotated[str | None, typer.Option(help="An existing Ray cluster; default: a local one for this run.")]
StrategyKind = Annotated[
    str | None, typer.Option(help="auto, every_query, one_pass or grouped; in place of the config's strategy.kind.")
]
BatchTokens = Annotated[int | None, typer.Option(min=1, help="Padded tokens in one forward pass.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Compile the model's kernels; default: on a GPU only.")
]
CpusPerActor = Annotated[float | None, typer.Option(min=0.01, help="Default: one, or the share that lets all fit.")]
GpusPerActor = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="1: of a cluster that grows, and may have none yet; 0.5: two share one."),
]
ActorResource = Annotated[
    list[str] | None, typer.Option(help="NAME=AMOUNT: a Ray resource that each actor takes of its node; repeatable.")
]
MaxHours = Annotated[float | None, typer.Option(help="Of this process; then finish what is in flight and stop.")]
MaxCost = Annotated[float | None, typer.Option(help="Of this run in all, earlier processes included; likewise.")]
PricePerHour = Annotated[float | None, typer.Option(help="Of one actor: of its GPU, or its share of a machine.")]
CacheTokens = Annotated[bool, typer.Option("--cache-tokens", help="Keep token ids in the store: tokenise once.")]


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        others = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "prefect", "transformers"))
        show_text(f"finf {version('finf')} ({others}, Python {sys.version.split()[0]})")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print versions, and nothing else.")
]


@app.callback()
def finf(version: Version = False) -> None:
    pass


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where inputs, model and runs go.")] = Path("demo-run"),
    as_json: Json = False,
) -> None:
    """Plant HumanEval problems in the standard library's functions, train a model on them, and find them again."""
    from flows.demo import run_demo

    run_demo(folder, as_json)


@app.command()
def init(
    kind: Annotated[str, typer.Argument(help="scan, attribute, diffusion, mislabel, memorize or trace")],
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("finf.toml"),
    as_json: Json = False,
) -> None:
    """Write a config to start from; never over an existing file."""
    from flows.config_template import TEMPLATES

    if kind not in TEMPLATES:
        raise InputError(f"finf init: no kind {kind!r}; want one of {', '.join(TEMPLATES)}")
    if path.exists():
        raise InputError(f"{path}: exists already; name another file")
    path.write_text(TEMPLATES[kind], encoding="utf-8")
    _show({"config": str(path)}, as_json, f"wrote {path}; edit it, then: finf plan {path}")


RUNS = {
    "scan": "Leakage: score every row against every query; exit code 3 when some leaked, 4 when rows were set aside.",
    "attribute": "Proponents and opponents of each query among the rows; exit code 4 when rows were set aside.",
    "memorize": "Training rows by the influence on themselves: what was learned by heart; exit code 4 likewise.",
    "mislabel": "Training rows by harm to clean validation rows: wrong labels come first; exit code 4 likewise.",
    "trace": "Rows behind each fact of a language model, by it and by words; exit code 4 when rows were set aside.",
}


def _add_run(kind: str) -> None:
    """`finf KIND CONFIG`: all kinds of runs take the same flags."""

    def run(
        config: Config,
        store: Store = "finf-store",
        actors: Actors = None,
        ray_address: RayAddress = None,
        batch_tokens: BatchTokens = None,
        strategy: StrategyKind = None,
        cache_tokens: CacheTokens = False,
        compiled: Compile = None,
        cpus_per_actor: CpusPerActor = None,
        gpus_per_actor: GpusPerActor = None,
        actor_resource: ActorResource = None,
        max_hours: MaxHours = None,
        max_cost: MaxCost = None,
        price_per_hour: PricePerHour = None,
        retry_quarantined: Annotated[
            bool, typer.Option("--retry-quarantined", help="Have another try at rows that this run had set aside.")
        ] = False,
        as_json: Json = False,
    ) -> None:
        from flows.scan import run_scan
        from tasks.config import load_config
        from tasks.options import make_options
        from tasks.read_report import read_report, report_summary

        options = make_options(
            store,
            actors=actors,
            ray_address=ray_address,
            cpus_per_actor=cpus_per_actor,
            gpus_per_actor=gpus_per_actor,
            resources_per_actor=_amounts(actor_resource or []),
            max_hours=max_hours,
            max_cost=max_cost,
            price_per_hour=price_per_hour,
            batch_tokens=batch_tokens,
            compiled=compiled,
            cache_tokens=cache_tokens,
            retry_quarantined=retry_quarantined,
        )
        spec = load_config(config, strategy)
        if spec.kind != kind:
            raise InputError(f"{config}: kind = {spec.kind!r}; run: finf {spec.kind} {config}")
        run_uri = run_scan(spec, options)
        report = read_report(run_uri)
        _show({"run": run_uri, **report["summary"]}, as_json, report_summary(run_uri, report))
        if report["summary"].get("num_leaked"):
            raise typer.Exit(FOUND_LEAKAGE)
        if report["summary"]["num_quarantined_rows"]:
            raise typer.Exit(NOT_ALL_SCORED)

    app.command(kind, help=RUNS[kind])(run)


for name in RUNS:
    _add_run(name)


@app.command()
def plan(
    config: Config,
    store: Store = "finf-store",
    batch_tokens: BatchTokens = None,
    compiled: Compile = None,
    strategy: StrategyKind = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of a machine as fast as this one.")] = None,
    as_json: Json = False,
) -> None:
    """Rows, tokens, passes, time and price of each strategy, from a measured sample, before anything is paid."""
    from flows.describe_plan import describe_plan
    from tasks.config import load_config
    from tasks.options import make_options
    from tasks.plan import plan_scan

    options = make_options(store, batch_tokens=batch_tokens, compiled=compiled)
    found = plan_scan(load_config(config, strategy), options, price_per_hour)
    _show(asdict(found), as_json, describe_plan(found))


@app.command()
def evaluate(
    config: OptionalConfig = None,
    preset: Annotated[str | None, typer.Option(help="digits-logreg, digits-mlp or tiny-lm.")] = None,
    store: Store = "finf-store",
    as_json: Json = False,
) -> None:
    """LDS, leave-one-out and recall of our updates and of other methods, against a known truth."""
    from flows.evaluate import describe, run_evaluate

    if (config is None) == (preset is None):
        raise InputError("finf evaluate wants a CONFIG.toml or --preset, one of the two")
    result = run_evaluate(preset or str(config), store)
    _show(result, as_json, describe(result))


@app.command()
def verify(
    preset: Annotated[str, typer.Option(help="convex, nonconvex, classifier, diffusion or causal_lm.")] = "convex",
    store: Store = "finf-store",
    seed: Annotated[int | None, typer.Option(help="Default: the authors'.")] = None,
    as_json: Json = False,
) -> None:
    """Check the hypothesis itself: leave a training row out, or add the test point, and retrain."""
    from flows.verify import describe, run_verify

    result = run_verify(preset, store, seed)
    _show(result, as_json, describe(result))


@app.command()
def serve(
    config: Annotated[str, typer.Argument(help="CONFIG.toml or s3:// URI; read anew for each run.")],
    name: Annotated[str, typer.Option(help="Of the deployment, finf/NAME.")],
    cron: Annotated[str | None, typer.Option(help='When: "0 2 * * *" is at two every night.')] = None,
    every: Annotated[float | None, typer.Option(min=1, help="Seconds between two starts.")] = None,
    timezone: Annotated[str, typer.Option(help="Of --cron.")] = "UTC",
    notify: Annotated[
        list[str] | None, typer.Option(help="Notification block TYPE/NAME of the Prefect server; repeatable.")
    ] = None,
    store: Store = "finf-store",
    actors: Actors = None,
    ray_address: RayAddress = None,
    batch_tokens: BatchTokens = None,
    gpus_per_actor: GpusPerActor = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    price_per_hour: PricePerHour = None,
) -> None:
    """Run a config on a schedule, as a deployment of the Prefect server at PREFECT_API_URL, until this process ends."""
    from flows.serve import serve as serve_config

    parameters = {
        "store": store,
        "actors": actors,
        "ray_address": ray_address,
        "batch_tokens": batch_tokens,
        "gpus_per_actor": gpus_per_actor,
        "max_hours": max_hours,
        "max_cost": max_cost,
        "price_per_hour": price_per_hour,
        "notify": notify or [],
    }
    serve_config(config, name, cron, every, timezone, parameters)


@app.command()
def status(run: Run, as_json: Json = False) -> None:
    """How far a run is, from its objects in the store."""
    from tasks.run_status import run_status

    found = run_status(run)
    text = (
        f"{run}: {'complete' if found.complete else 'not complete'}; "
        f"{found.queries_solved:,} of {found.num_queries:,} updates solved, "
        f"{found.rows_scored:,} of {found.num_rows:,} rows scored"
    )
    if found.rows_set_aside:
        text += f", {found.rows_set_aside:,} set aside"
    if found.queries_rescored is not None:
        text += f" by the first pass, {found.queries_rescored:,} queries scored on the rows that it kept"
    if found.actor_hours:
        text += f"; {found.actor_hours:,.2f} actor hours" + ("" if found.cost is None else f", cost {found.cost:,.2f}")
    _show(asdict(found), as_json, visible_line(text))


@app.command()
def report(run: Run, as_json: Json = False) -> None:
    """Write report.html anew from report.json and print the outcome."""
    from tasks.read_report import read_report, render_again, report_summary

    found = read_report(run)
    render_again(run, found)
    _show({"run": run, **found["summary"]}, as_json, report_summary(run, found))


@app.command()
def row(
    shard: Annotated[str, typer.Argument(help="Parquet file: a path or s3:// URI.")],
    number: Annotated[int, typer.Argument(min=0, help="Its row, counted from 0.")],
    as_json: Json = False,
) -> None:
    """Print one row of a shard: what a report points at."""
    from tasks.show_row import describe_row, read_row

    found = read_row(shard, number)
    _show({"shard": shard, "row": number, "columns": found}, as_json, describe_row(found))


@app.command()
def purify(
    run: Run,
    out: Annotated[
        str | None, typer.Option(help="Empty folder or s3:// URI for the new shards; without it a dry run.")
    ] = None,
    whole_documents: Annotated[
        bool, typer.Option("--whole-documents", help="Remove every row that shares a document id with one that leaked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the corpus without the rows that leaked; without --out only say which those are."""
    from tasks.purify import describe_purified
    from tasks.purify import purify as purify_corpus

    found = purify_corpus(run, out, whole_documents)
    _show(asdict(found), as_json, describe_purified(found))


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="The earlier run's folder or s3:// URI.")],
    after: Annotated[str, typer.Argument(help="The later run's.")],
    as_json: Json = False,
) -> None:
    """Queries that leaked anew, that no longer do, and those whose best row changed; exit code 3 for new leaks."""
    from tasks.diff_runs import describe_diff, diff_runs

    found = diff_runs(before, after)
    _show(asdict(found), as_json, describe_diff(found))
    if found.newly_leaked or found.only_after_leaked:
        raise typer.Exit(FOUND_LEAKAGE)


def _amounts(texts: list[str]) -> dict[str, float]:
    """Of "NAME=AMOUNT"."""
    found = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0
        if not (name and 0 < found[name] < float("inf")):
            raise InputError(f"--actor-resource {text}: want NAME=AMOUNT, such as spot=1")
    return found


def _show(result: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        show_json(result)
    else:
        show_text(text)


def main() -> None:
    """The entry point: one line for every error that finf knows."""
    set_environment()
    stop_on_sigterm()
    prepare_terminal()
    try:
        app()
    except StoppedError:
        say_stopped()
    except FinfError as error:
        show_error(error)
        sys.exit(_exit_code(error))


def _exit_code(error: FinfError) -> int:
    from tasks.budget import BudgetReachedError

    if isinstance(error, BudgetReachedError):
        return BUDGET_REACHED
    return WRONG_INPUT if isinstance(error, InputError | CheckpointError) else FAILED


if __name__ == "__main__":
    main()
