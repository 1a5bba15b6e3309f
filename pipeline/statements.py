"""The statement of a closed period, frozen with it: as SQL, so that a hundred thousand are made where the rows are.

The names used: ``r`` is the usage record, ``b`` its business, ``p`` its plan, ``invoice`` the one that bills it
(or nulls), ``of_calls`` what OF_CALLS joins, and ``%(now)s`` is the instant of the close.
"""

# Twilio's prices are kept by unit and never summed across. A call that completed without a known duration is not
# counted, and said so.
_OF_CALLS = """
  select coalesce(jsonb_object_agg(price_unit, cost::text) filter (where cost is not null), '{}') as cost,
         coalesce(sum(unknown), 0) as unknown
  from (
    select call.price_unit, sum(call.price) as cost,
           count(*) filter (where call.status = 'completed' and call.seconds is null) as unknown
    from calls call where call.usage_record_id = r.id group by call.price_unit
  ) by_unit
"""

# Late calls of closed periods that were not for Stripe are written off; each is told in the statement of the period
# in which it came.
_WRITTEN_OFF = """
  select coalesce(sum(a.minutes), 0)
  from usage_adjustments a
  where a.business_id = r.business_id and a.kind = 'written-off'
    and a.created_at >= r.period_start and a.created_at < r.period_end
"""

_HAS_PUSH = """
  r.subscription_id is not null and exists (
    select from meter_pushes push
    where push.business_id = r.business_id and push.timestamp >= r.period_start and push.timestamp < r.period_end
      and push.state = any(array[%s]))
"""

STATEMENT = f"""
jsonb_build_object(
  'business', jsonb_build_object('id', b.id, 'name', b.name),
  'plan', p.code,
  'period', jsonb_build_object('start', r.period_start, 'end', r.period_end),
  'for_stripe', r.subscription_id is not null,
  'calls', r.calls,
  'seconds', r.seconds,
  'minutes', r.minutes,
  'included', r.included_minutes,
  'overage', case when p.bills_overage then greatest(r.minutes - r.included_minutes, 0) else 0 end,
  'unbilled', case when p.bills_overage then 0 else greatest(r.minutes - r.included_minutes, 0) end,
  'adjustments', r.adjustment_minutes,
  'written_off', ({_WRITTEN_OFF}),
  'pushed', r.pushed_minutes,
  'cost', of_calls.cost,
  'gaps', to_jsonb(array_remove(array[
    case when r.subscription_id is not null and invoice.id is null and not r.cut then 'no-invoice' end,
    case when of_calls.unknown > 0 then 'call-of-unknown-duration' end,
    case when {_HAS_PUSH % "'failed'"} then 'refused-push' end,
    case when {_HAS_PUSH % "'planned', 'sending', 'unknown'"} then 'unanswered-push' end
  ], null)),
  'closed_at', %(now)s::timestamptz
)
"""

OF_CALLS = f"cross join lateral ({_OF_CALLS}) of_calls"
