"""Commands that make, list and revoke the API keys of the scoring service."""

from datetime import timedelta
from typing import Annotated

import typer

from fraud_pipelines.api_keys import DEFAULT_RATE_PER_SECOND, LARGEST_RATE_PER_SECOND, Role, new_key, state_of
from fraud_pipelines.settings import load_settings
from fraud_pipelines.terminal import person

app = typer.Typer(
    name="keys",
    help="API keys of the scoring service: make, list, revoke. See docs/access.md.",
    epilog="Examples:  fraud keys create checkout --role score   |   fraud keys list",
    no_args_is_help=True,
)


@app.command(
    epilog="Examples:  fraud keys create checkout --role score   |   "
    "fraud keys create console --role analyst --rate 20 --expires-days 90"
)
def create(
    name: Annotated[str, typer.Argument(help="Who will use it; two keys may have one name.")],
    role: Annotated[list[Role], typer.Option(help="What it is for; once per role.")],
    rate: Annotated[
        float, typer.Option(min=0.001, max=LARGEST_RATE_PER_SECOND, help="Transactions per second, in the long run.")
    ] = DEFAULT_RATE_PER_SECOND,
    burst: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Transactions at once after a pause. Default: twice the rate."),
    ] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, help="Days it is valid. Default: until revoked.")] = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.terminal import console, output

    key, text = new_key(
        name,
        role,
        created_by=person(),
        rate_per_second=rate,
        burst=burst,
        lifetime=timedelta(days=expires_days) if expires_days else None,
    )
    open_ledger(load_settings().ledger_url).add_api_key(key)
    # On standard output the key and nothing else, so that it can be piped to where secrets are kept.
    output.print(text)
    console.print(
        f"This is the only time the key is shown. It is valid within a second. Take it back with: "
        f"fraud keys revoke {key.key_id}",
        markup=False,
        soft_wrap=True,
    )


@app.command("list", epilog="Example:  fraud keys list")
def list_keys() -> None:
    """Every key ever made, without its secret: who made it, what it opens, whether it is valid."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.ledger.records import utc_now
    from fraud_pipelines.terminal import output, table

    keys, now = open_ledger(load_settings().ledger_url).api_keys(), utc_now()
    if not keys:
        output.print("There is no API key yet. Make one with: fraud keys create NAME --role score")
        return
    table(
        "API keys",
        ["key", "name", "state", "roles", "per second", "burst", "made (UTC)", "by", "expires (UTC)"],
        [
            [key.key_id, key.name, state_of(key, now=now), ", ".join(key.roles), f"{key.rate_per_second:g}", key.burst,
             f"{key.created_at:%Y-%m-%d %H:%M}", key.created_by,
             f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else None]
            for key in keys
        ],
    )  # fmt: skip


@app.command(epilog="Example:  fraud keys revoke 0123456789abcdef")
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="As listed: the digits between fk_ and the secret.")],
) -> None:
    """Take a key back: within a second no service of this ledger accepts it, and it never becomes valid again."""
    from fraud_pipelines.ledger import open_ledger
    from fraud_pipelines.ledger.records import utc_now
    from fraud_pipelines.terminal import output

    # Whoever finds a key in a wrong place has the whole of it at hand, in a hurry.
    key_id = key.removeprefix("fk_").partition("_")[0]
    revoked = open_ledger(load_settings().ledger_url).revoke_api_key(key_id, at=utc_now())
    output.print(f"The key {key_id} ({revoked.name}) is revoked since {revoked.revoked_at:%Y-%m-%d %H:%M:%S} UTC.")
