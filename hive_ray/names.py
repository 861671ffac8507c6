"""Names under which actors are found in a Ray cluster."""

NAMESPACE = "hive"


def controller_name(partition: int) -> str:
    return f"hive/controller/{partition}"


def worker_name(pool: str, number: int) -> str:
    return f"hive/worker/{pool}/{number}"
