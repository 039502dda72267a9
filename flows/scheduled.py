"""The flow of a deployment: a whole run from a config, compared with the last one of its name, and told to people.

Each leakage scan leaves a summary and a link to its report as artifacts, and emits the event `finf.leakage.new` when
queries leaked that had not leaked in the run before: an automation of Prefect can act on it. The blocks named in
`notify` hear of new leakage and of failures.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow
from prefect.states import Completed
from pydantic import Field

from flows.environment import set_environment
from flows.notify import notify
from flows.scan import run_scan
from tasks import storage
from tasks.budget import BudgetReachedError
from tasks.config import read_config
from tasks.diff_runs import diff_runs
from tasks.latest_run import latest_run, publish_latest
from tasks.options import make_options
from tasks.read_report import read_report, report_summary

NEW_LEAKAGE = "finf.leakage.new"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def tell_of_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect calls it by these names, once no retry is left."""
    asked = flow_run.parameters
    notify(asked.get("notify") or [], f"finf: {flow_run.name} failed", f"{asked.get('config')}: {state.message}")


@flow(name="finf", on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def scheduled_run(
    config: str,
    store: str = "finf-store",
    actors: Count | None = None,
    ray_address: str | None = None,
    batch_tokens: Count | None = None,
    gpus_per_actor: Annotated[float, Field(ge=0, le=1)] | None = None,
    max_hours: Positive | None = None,
    max_cost: Positive | None = None,
    price_per_hour: Positive | None = None,
    notify: list[str] | None = None,
) -> Any:
    """Run a config once; what was scored on other days is not scored again.

    Args:
        config: CONFIG.toml: a path on the machine that runs it, or s3://...; read anew each time.
        store: folder or s3:// URI that holds runs and the cache.
        actors: Ray actors; by default one per GPU, else two.
        ray_address: an existing Ray cluster; by default a local one for this run.
        batch_tokens: padded tokens in one forward pass.
        gpus_per_actor: 1 where a cluster grows, and may have none yet.
        max_hours: of this run; then it stops, and the next one goes on.
        max_cost: of all processes that worked at this very run.
        price_per_hour: of one actor.
        notify: notification blocks, such as "slack-webhook/leaks".

    Returns:
        The run's folder, its summary, and the queries that leaked anew.
    """
    set_environment()
    spec = read_config(config)
    options = make_options(
        store,
        actors=actors,
        ray_address=ray_address,
        batch_tokens=batch_tokens,
        gpus_per_actor=gpus_per_actor,
        max_hours=max_hours,
        max_cost=max_cost,
        price_per_hour=price_per_hour,
    )
    try:
        run_uri = run_scan(spec, options)
    except BudgetReachedError as stop:
        return Completed(message=str(stop), name="BudgetReached")
    report = read_report(run_uri)
    before = latest_run(store, spec.kind, spec.name)
    new = newly_leaked(before, run_uri) if spec.kind == "scan" else []
    _show(spec.name, run_uri, report_summary(run_uri, report))
    if new:
        _tell_of_leaks(spec.name, run_uri, new, notify or [])
    publish_latest(store, spec.kind, spec.name, run_uri)
    return {"run": run_uri, **report["summary"], "newly_leaked": new}


def newly_leaked(before: str | None, run_uri: str) -> list[str]:
    """Query ids that leaked in this run and not in the one before, if there was one."""
    if before is None or not storage.exists(storage.join(before, "report.json")):
        return [query["query_id"] for query in read_report(run_uri)["queries"] if query["leaked"]]
    diff = diff_runs(before, run_uri)
    return diff.newly_leaked + diff.only_after_leaked


def _show(name: str, run_uri: str, summary: str) -> None:
    key = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    page = storage.join(run_uri, "report.html")
    uri = storage.join(run_uri, "summary.md")
    markdown = storage.read_bytes(uri).decode() if storage.exists(uri) else f"```\n{summary}\n```"
    create_markdown_artifact(markdown, key=f"{key}-summary", description=run_uri)
    create_link_artifact(page if "://" in page else f"file://{page}", key=f"{key}-report", description=page)


def _tell_of_leaks(name: str, run_uri: str, new: list[str], blocks: list[str]) -> None:
    emit_event(
        NEW_LEAKAGE,
        resource={"prefect.resource.id": f"finf.scan.{name}", "prefect.resource.name": name},
        payload={"run": run_uri, "queries": new[:100], "num_queries": len(new)},
    )
    shown = ", ".join(new[:20]) + (f", … {len(new) - 20:,} more" if len(new) > 20 else "")
    notify(blocks, f"finf: new leakage in {name}", f"{len(new):,} queries leaked anew: {shown}\n{run_uri}/report.html")
