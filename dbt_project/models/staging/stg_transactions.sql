-- One row per transaction. Times also as integer microseconds, for windows that are exact.
select
    transaction_id,
    event_time,
    {{ epoch_us('event_time') }} as event_time_us,
    card_id,
    merchant_id,
    amount_minor,
    currency,
    category,
    channel,
    country,
    device_id,
    home_latitude,
    home_longitude,
    merchant_latitude,
    merchant_longitude
from {{ source('raw', 'transactions') }}
