"""Run options: where and how a run happens. None of them may change a number, so none is in a fingerprint."""

from dataclasses import dataclass, field

from tasks.actor_pool import PoolOptions
from tasks.budget import BudgetOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    store: str = "finf-store"  # folder or s3:// URI that holds runs and the cache
    batch_tokens: int | None = None  # padded tokens in one forward pass; None: what suits the actor's device
    compiled: bool | None = None  # kernels compiled for the model; None: on a GPU, where they pay
    cache_tokens: bool = False  # keep the corpus's token ids beside its base losses
    retry_quarantined: bool = False  # have another try at what a run set aside
    pool: PoolOptions = field(default_factory=PoolOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
