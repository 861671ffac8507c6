"""``hive-ray costs``: corrections of what was charged, and the comparison with a provider's bill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import FAILED, SUCCEEDED, Config, Json, RunId, Url, app, client_of, show_json

if TYPE_CHECKING:
    from hive_ray.config import Settings
    from hive_ray.control.reconciliation import Difference, Planned, Window

costs = typer.Typer(help="The ledger: correct it, compare it with a bill.", no_args_is_help=True)
app.add_typer(costs, name="costs")

Amount = Annotated[str, typer.Option(help="US dollars to add; below 0 gives back.")]
Attempt = Annotated[str, typer.Option(help="serial.call.attempt, as in the events; empty: the whole run.")]
CorrectionId = Annotated[str, typer.Option("--id", help="Repeating it changes nothing; random by default.")]
Why = Annotated[str, typer.Option(help="Why; kept with the correction.")]


@costs.command()
def correct(  # noqa: PLR0913 - each parameter is an option of the command
    run_id: RunId,
    amount_usd: Amount,
    reason: Why,
    attempt: Attempt = "",
    correction_id: CorrectionId = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Correct what a run was charged, whether it has ended or not."""
    import uuid

    body = {
        "correction_id": correction_id or uuid.uuid4().hex,
        "amount_usd": amount_usd,
        "attempt": attempt,
        "reason": reason,
    }
    with client_of(url, config) as client:
        view = client.post(f"/v1/runs/{run_id}/corrections", body)
    if as_json:
        show_json({"correction_id": body["correction_id"], "run": view})
    else:
        print(f"run {run_id} cost ${view['cost_usd']} (correction {body['correction_id']})")


@costs.command()
def reconcile(  # noqa: PLR0913 - each parameter is an option of the command
    file: Annotated[Path, typer.Argument(help="The provider's usage export, CSV with date and cost_usd.")],
    model: Annotated[str, typer.Option(help="Name of the model in hive.yaml.")],
    first: Annotated[str, typer.Option("--from", help="YYYY-MM-DD (UTC), included.")],
    last: Annotated[str, typer.Option("--to", help="YYYY-MM-DD (UTC), included.")],
    apply: Annotated[bool, typer.Option("--apply", help="Write the corrections.")] = False,
    tolerance_usd: Annotated[str, typer.Option(help="Differences up to this are none.")] = "0",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compare what a provider billed with what was charged; reads the state itself.

    Exits 0 when they agree or every difference was corrected, else 1.
    """
    from hive_ray.config import load

    settings = load(config)
    found = _differences(settings, file, model, _window(first, last), _tolerance(tolerance_usd))
    corrected = _apply(found, url, config) if apply else []
    _show(found, corrected, as_json)
    left = [difference for difference in found if not apply or not difference.charges]
    raise typer.Exit(FAILED if left else SUCCEEDED)


def _differences(
    settings: Settings, file: Path, model: str, window: Window, tolerance_nanousd: int
) -> list[Difference]:
    from hive_ray.control.reconciliation import compare, of_model, read_bill
    from hive_ray.state.access import open_state
    from hive_ray.state.ledger import charges

    bill = read_bill(str(file), _lines(file), _names(settings, model), window)
    ours = of_model(charges(open_state(settings)), model, window)
    return [found for found in compare(ours, bill) if abs(found.nanousd) > tolerance_nanousd]


def _lines(file: Path) -> list[str]:
    from hive_ray.errors import Fault, InputError

    try:
        return file.read_text("utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError("FILE", [Fault(str(file), f"cannot be read: {why}", "name a CSV file")]) from error


def _names(settings: Settings, model: str) -> set[str]:
    """A model as hive.yaml names it, and as its provider does."""
    from hive_ray.errors import ConfigError, Fault

    known = settings.models.get(model)
    if known is None:
        names = ", ".join(settings.models) or "none"
        raise ConfigError("options", [Fault("--model", f"no model {model}", f"models of hive.yaml: {names}")])
    return {model, known.model}


def _window(first: str, last: str) -> Window:
    from datetime import date

    from hive_ray.control.reconciliation import Window
    from hive_ray.errors import ConfigError, Fault

    days: list[date] = []
    for option, text in (("--from", first), ("--to", last)):
        try:
            days.append(date.fromisoformat(text))
        except ValueError as error:
            raise ConfigError("options", [Fault(option, f"{text!r} is no day", "YYYY-MM-DD")]) from error
    if days[1] < days[0]:
        raise ConfigError("options", [Fault("--to", f"{last} lies before {first}", "the last day")])
    return Window(*days)


def _tolerance(text: str) -> int:
    from decimal import Decimal, InvalidOperation

    from hive_ray.errors import ConfigError, Fault

    try:
        return int(Decimal(text) * 10**9)
    except (InvalidOperation, ValueError, OverflowError) as error:
        fault = Fault("--tolerance-usd", f"{text!r} is no amount", "a decimal number such as 0.01")
        raise ConfigError("options", [fault]) from error


def _apply(found: Sequence[Difference], url: str, config: Path | None) -> list[Planned]:
    """One correction after the other; one that was made before by the same call changes nothing."""
    from decimal import Decimal

    from hive_ray.control.reconciliation import plan

    planned = [correction for difference in found for correction in plan(difference)]
    if not planned:
        return []
    with client_of(url, config) as client:
        for correction in planned:
            body = {
                "correction_id": correction.correction,
                "amount_usd": str(Decimal(correction.nanousd).scaleb(-9)),
                "attempt": correction.charge.key,
                "reason": "the provider's usage export says so",
            }
            client.post(f"/v1/runs/{correction.charge.run}/corrections", body)
    return planned


def _show(found: Sequence[Difference], corrected: Sequence[Planned], as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "differences": [_told(difference) for difference in found],
                "corrections": [_correction(correction) for correction in corrected],
            }
        )
        return
    for told in map(_told, found):
        attempts = f"{told['attempts']} attempts, {told['unseen']} unseen"
        attempts = attempts if told["attempts"] else "no attempt of ours: nothing to correct"
        print(
            f"{told['group']:<36} charged ${told['charged_usd']}, billed ${told['billed_usd']}, "
            f"difference ${told['difference_usd']} ({attempts})"
        )
    for correction in map(_correction, corrected):
        where = f"{correction['run_id']} attempt {correction['attempt']}"
        print(f"corrected {where} by ${correction['amount_usd']}")
    if not found:
        print("charged and billed agree")


def _told(difference: Difference) -> dict[str, Any]:
    return {
        "group": difference.group,
        "charged_usd": _usd(difference.charged_nanousd),
        "billed_usd": _usd(difference.billed_nanousd),
        "difference_usd": _usd(difference.nanousd),
        "attempts": len(difference.charges),
        "unseen": difference.unseen,
    }


def _correction(planned: Planned) -> dict[str, Any]:
    return {
        "correction_id": planned.correction,
        "run_id": planned.charge.run,
        "attempt": planned.charge.key,
        "amount_usd": _usd(planned.nanousd),
    }


def _usd(nanousd: int) -> str:
    from decimal import Decimal

    text = format(Decimal(nanousd).scaleb(-9), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
