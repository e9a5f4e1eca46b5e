"""Every error a user can meet, in one tree. A message names the thing, the place, what was expected,
what was found and the next command.

    FraudPipelinesError
    ├── PermanentError          running it again cannot help; exit code 3
    │   ├── SettingInvalid      a setting is missing or cannot be read
    │   ├── SourceInvalid       a file or mapping cannot be read as described
    │   ├── ContractBroken      data or a document breaks what its table or schema promises
    │   ├── SpecInvalid         an entry of the feature spec cannot be computed
    │   ├── MissingPartition    the days asked for are not in the warehouse
    │   ├── EmptySample         nothing left to train, evaluate or compare
    │   ├── TrialFailed         parameters that the tuning tried cannot be fitted
    │   ├── NoChampion          no model has been promoted yet
    │   ├── OnlineStateTooShort the online store was filled for shorter windows than the model's
    │   ├── UnknownVersion      the registry or ledger has no such model version
    │   ├── UnknownKey          the ledger has no such API key
    │   ├── PromotionRefused    a gate said no
    │   ├── BundleCorrupt       a model bundle's digest does not match its manifest
    │   └── ScoringRefused      the scoring service does not take this request; also a ScoringError
    └── RetryableError          the same call may succeed later; exit code 4
        ├── WarehouseUnavailable
        ├── LedgerUnavailable
        ├── OnlineStoreUnavailable
        ├── RegistryUnavailable
        ├── ScoringUnavailable  the scoring service cannot answer now; also a ScoringError
        ├── JournalUnavailable  the disk under the scoring service's journal does not take records
        └── JournalFull         what waits for the ledger has reached its limit
"""


class FraudPipelinesError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class PermanentError(FraudPipelinesError):
    """A rerun cannot help: something must be changed first."""

    exit_code = 3


class SettingInvalid(PermanentError):
    """A setting is missing or cannot be read."""


class SourceInvalid(PermanentError):
    """A source file or its mapping cannot be read as described."""


class ContractBroken(PermanentError):
    """Data or a document breaks what its table or schema promises."""


class SpecInvalid(PermanentError):
    """An entry of the feature spec names something no engine can compute."""


class MissingPartition(PermanentError):
    """The days asked for are not in the warehouse."""


class EmptySample(PermanentError):
    """Nothing is left to train on, to evaluate or to compare."""


class TrialFailed(PermanentError):
    """Parameters that the tuning tried cannot be fitted or judged."""


class NoChampion(PermanentError):
    """No model version has been promoted yet."""


class OnlineStateTooShort(PermanentError):
    """The online store was filled for shorter windows than the feature spec has."""


class UnknownVersion(PermanentError):
    """The registry or the ledger has no such model version."""


class UnknownKey(PermanentError):
    """The ledger has no such API key."""


class PromotionRefused(PermanentError):
    """A promotion gate said no; the refusal is in the ledger."""


class BundleCorrupt(PermanentError):
    """A model bundle's files do not match the digests in its manifest."""


class RetryableError(FraudPipelinesError):
    """The same call may succeed later."""

    exit_code = 4


class WarehouseUnavailable(RetryableError):
    """The warehouse cannot be opened now: locked by another process, or its server is away."""


class LedgerUnavailable(RetryableError):
    """The ledger cannot be reached now."""


class OnlineStoreUnavailable(RetryableError):
    """The online store cannot be reached now."""


class RegistryUnavailable(RetryableError):
    """The model registry cannot be reached now."""


class ScoringError(FraudPipelinesError):
    """What the scoring service, or the way to it, said instead of an answer. Nothing of the request is in it.

    Args:
        code: stable word for programs; the service's own, or `unreachable`, `answer_unreadable`, `status_<number>`.
        message: for people.
        field: the first field concerned.
        next_step: what to do about it.
        status: of HTTP; None when there was no answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        next_step: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(" ".join(part for part in (f"{message} ({code})", next_step) if part))
        self.code, self.message, self.field, self.next_step, self.status = code, message, field, next_step, status


class ScoringRefused(ScoringError, PermanentError):
    """The scoring service does not take this request: sent again unchanged, it would not either."""


class ScoringUnavailable(ScoringError, RetryableError):
    """The scoring service cannot answer now: unreachable, failing, not ready, or asked too often (429).

    `retry_after` has the seconds the service asks to wait, where it does.
    """

    retry_after: float | None = None


class JournalUnavailable(RetryableError):
    """The disk under the scoring service's journal does not take records now."""


class JournalFull(RetryableError):
    """What waits in the journal for the ledger has reached its limit."""
