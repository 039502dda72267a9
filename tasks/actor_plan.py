"""How many actors, and what each of them asks of the cluster."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from finf_core.errors import InputError

MAX_DEFAULT_CPU_ACTORS = 2  # each holds a copy of the model
OWN_PATIENCE_SECONDS = 300.0
CLUSTER_PATIENCE_SECONDS = 1800.0  # its nodes may have to be started first, with images and drivers


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """Where and how the actors run. None of it may change a number.

    On CPUs each actor gets an equal share of the cores as its torch threads (OMP_NUM_THREADS in its environment).
    """

    num_actors: int | None = None  # one per GPU if there is any, else two
    num_cpus_per_actor: float | None = None  # one, or the share that lets all actors fit
    num_gpus_per_actor: float | None = None  # likewise; none without GPUs
    resources_per_actor: Mapping[str, float] = field(default_factory=dict)  # of Ray: nodes that have them take actors
    ray_address: str | None = None  # None or "local": a cluster of one's own on this machine
    object_store_memory_bytes: int = 200_000_000  # of a cluster of one's own; units and results are small
    max_attempts: int = 3  # of a unit that raises
    max_storage_seconds: float = 600.0  # that storage may be away, on top of those attempts
    max_dead_seconds: float | None = None  # without a live actor before the run is given up; see `patience_seconds`

    def __post_init__(self) -> None:
        for name in (
            "num_actors",
            "max_attempts",
            "object_store_memory_bytes",
            "max_storage_seconds",
            "max_dead_seconds",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"pool option {name} = {value}: want a positive number")
        if (self.num_gpus_per_actor or 0) > 1:
            raise InputError(
                f"pool option num_gpus_per_actor = {self.num_gpus_per_actor:g}: an actor's model lies on one GPU; "
                "want at most 1"
            )

    @property
    def is_own_cluster(self) -> bool:
        """On this machine, of this run: it never grows."""
        return self.ray_address in (None, "local")

    @property
    def patience_seconds(self) -> float:
        """How long no actor may be alive."""
        return self.max_dead_seconds or (OWN_PATIENCE_SECONDS if self.is_own_cluster else CLUSTER_PATIENCE_SECONDS)


@dataclass(frozen=True)
class ActorPlan:
    num_actors: int
    num_cpus: float  # per actor, as all below
    num_gpus: float
    num_threads: int

    def __str__(self) -> str:
        actors = "1 actor" if self.num_actors == 1 else f"{self.num_actors} actors"
        return f"{actors} of {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"


def plan_actors(options: PoolOptions, cluster_cpus: float, cluster_gpus: float, node_cpus: float) -> ActorPlan:
    """Fill the gaps of the options from what the cluster has; `node_cpus` is that of its largest node.

    Raises:
        InputError: the actors cannot all be placed on a cluster of our own, which never grows.
    """
    num_actors = options.num_actors or int(cluster_gpus) or max(1, min(MAX_DEFAULT_CPU_ACTORS, int(cluster_cpus)))
    plan = ActorPlan(
        num_actors,
        _share(options.num_cpus_per_actor, cluster_cpus, num_actors),
        _share(options.num_gpus_per_actor, cluster_gpus, num_actors)
        if cluster_gpus
        else options.num_gpus_per_actor or 0,
        max(1, min(int(node_cpus), int(cluster_cpus) // num_actors)),
    )
    is_full = num_actors * plan.num_cpus > cluster_cpus or num_actors * plan.num_gpus > cluster_gpus
    if options.is_own_cluster and is_full:
        raise InputError(
            f"there is no room for {plan}: this machine has {cluster_cpus:g} CPUs and {cluster_gpus:g} GPUs"
        )
    return plan


def _share(wanted: float | None, available: float, num_actors: int) -> float:
    """One, or 1/k with the smallest k that fits: other fractions leave gaps that no actor can use."""
    if wanted is not None:
        return wanted
    return 1 / math.ceil(num_actors / max(available, 1))
