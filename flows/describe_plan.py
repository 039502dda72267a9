"""A plan as a few lines for people."""

from tasks.plan import Plan, StrategyPlan


def describe_plan(plan: Plan) -> str:
    """Rows and tokens, then a line for each strategy; the one that was picked is marked."""
    head = (
        f"{plan.num_rows:,} rows in {plan.num_shards:,} shards ({plan.num_units:,} units of work), "
        f"about {plan.num_tokens:,} tokens, {plan.num_queries:,} queries\n"
        f"one forward pass: {plan.tokens_per_second:,.0f} tokens/s on this machine "
        f"(measured on {plan.sample_rows} rows)\n"
        f"picked: {plan.picked} ({plan.reason})"
    )
    return "\n".join([head, *(_line(each, each.kind == plan.picked) for each in plan.strategies)])


def _line(strategy: StrategyPlan, is_picked: bool) -> str:
    price = "" if strategy.price is None else f", {strategy.price:,.2f} at the price given"
    return (
        f"{'*' if is_picked else ' '} {strategy.kind:11} {strategy.forward_equivalents:8,.1f} forward passes, "
        f"{strategy.flops:9.2e} FLOP, at most {strategy.bytes_read / 1e6:,.1f} MB read, "
        f"about {strategy.seconds / 60:,.1f} minutes{price}"
    )
