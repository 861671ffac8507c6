"""The functions of ledger.yaml."""

from __future__ import annotations

import hive_ray as hive


@hive.function(idempotent=True)
def book(customer: str, amount: float, context: hive.ToolContext) -> float:
    """Add to what is remembered; if somebody else has added meanwhile, the step is tried again."""
    memory = context.memory
    balance = memory.get("balance", 0.0) + amount
    memory.put(f"agent:balance/{customer}", balance, if_version=memory.version("balance"))
    memory.put("run:booked", {"customer": customer, "amount": amount})
    return balance


@hive.function(idempotent=True)
def state(customer: str, balance: float, context: hive.ToolContext) -> str:
    """Write the statement; its name is the node's output, its bytes are the run's artifact."""
    booked = context.memory.get("run:booked")
    lines = [
        str(context.memory.get("team:letterhead", "Tidewell")),
        f"Customer: {customer}",
        f"Booked: {booked['amount']:.2f}",
        f"Balance: {balance:.2f}",
    ]
    return context.artifact(f"statement-{customer}.txt", "\n".join(lines) + "\n")
