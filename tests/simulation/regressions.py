"""Seeds that once broke an invariant, or that show what is rare; each is played by ``make test``.

A seed stands for its history as long as the simulation draws from chance in the same order. So each bug
that was found also has a test of its own, named here.
"""

from __future__ import annotations

SEEDS: dict[int, str] = {
    41: "a doubled request to attach: leases that had begun were given out again "
    "(shell_test: a_request_to_attach_that_comes_late_takes_no_lease_away)",
    46: "the same, with a late request",
    4: "an idempotency key after its day",
    5: "an orphan's worker does not come back: its reservation ends with the grace",
}
