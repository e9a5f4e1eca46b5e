-- One row per label arrival. A label counts from the microsecond after its transaction at the earliest: a source that
-- claims to have known at the event itself would otherwise put the answer into the question.
select
    transaction_id,
    event_time,
    {{ epoch_us('event_time') }} as event_time_us,
    known_at,
    case when known_at > event_time then known_at else event_time + interval '1 microsecond' end as counts_from,
    greatest({{ epoch_us('known_at') }}, {{ epoch_us('event_time') }} + 1) as counts_from_us,
    is_fraud
from {{ source('raw', 'labels') }}
