-- Notes which events of a group were here before and are dead: their sender wishes them to be applied again (89).
-- The receiver changes no event: a worker does what is wished.
insert into resent_events (event_id)
select stored.id
from json_to_recordset(%(events)s::json) as event (provider text, key text)
join webhook_events stored using (provider, key)
where stored.state = 'dead'
order by stored.id
on conflict do nothing
