"""Functions for the benchmarks: steps that do nothing, so that only the system is measured."""

from hive_ray.workers.tools import function


@function(idempotent=True)
def noop(x: str) -> dict[str, str]:
    """Hand the payload on."""
    return {"x": x}
