-- Stores a group of events in one transaction: what describes them as one JSON array, which costs a tenth of seven
-- arrays of PostgreSQL's to write, and the bodies beside it, one for each.
-- Sorted by the unique key: two receivers that store the same keys in different orders deadlock.
insert into webhook_events (provider, key, type, state, reason, processed_at, received_at, content_type, body)
select provider, key, type, state, reason, case when state = 'dead' then now() end, received_at, content_type, body
from rows from (
    json_to_recordset(%(events)s::json) as (
        provider text, key text, type text, state text, reason text, received_at timestamptz, content_type text
    ),
    unnest(%(bodies)b::bytea[])
) as event (provider, key, type, state, reason, received_at, content_type, body)
order by provider, key collate "C"
on conflict (provider, key) do nothing
