"""Run options: where and how a run happens. None of them may change a number, so none is in a fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.actor_pool import PoolOptions
from tasks.budget import BudgetOptions
from tasks.filesystems import refuse_credentials


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    store: str = "finf-store"  # folder or s3:// URI that holds runs and the cache
    batch_tokens: int | None = None  # padded tokens in one forward pass; None: what suits the actor's device
    compiled: bool | None = None  # kernels compiled for the model; None: on a GPU, where they pay
    cache_tokens: bool = False  # keep the corpus's token ids beside its base losses
    retry_quarantined: bool = False  # have another try at what a run set aside
    pool: PoolOptions = field(default_factory=PoolOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)


def make_options(
    store: str,
    *,
    actors: int | None = None,
    ray_address: str | None = None,
    cpus_per_actor: float | None = None,
    gpus_per_actor: float | None = None,
    resources_per_actor: Mapping[str, float] | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    price_per_hour: float | None = None,
    batch_tokens: int | None = None,
    compiled: bool | None = None,
    cache_tokens: bool = False,
    retry_quarantined: bool = False,
) -> RunOptions:
    """Options as people give them, flat.

    Raises:
        InputError: one of them is out of its range, or an address carries a password.
    """
    for place in (store, ray_address or "auto"):  # before Prefect writes them down as parameters of the run
        refuse_credentials(place)
    return RunOptions(
        store=store,
        batch_tokens=batch_tokens,
        compiled=compiled,
        cache_tokens=cache_tokens,
        retry_quarantined=retry_quarantined,
        pool=PoolOptions(
            num_actors=actors,
            num_cpus_per_actor=cpus_per_actor,
            num_gpus_per_actor=gpus_per_actor,
            resources_per_actor=resources_per_actor or {},
            ray_address=ray_address,
        ),
        budget=BudgetOptions(max_hours=max_hours, max_cost=max_cost, price_per_hour=price_per_hour),
    )
