-- The schema of the Altiora billing pipeline with its four plans. Written by `make schema` from db/migrations;
-- a test holds the two in step. Use:  CREATE DATABASE altiora;  \c altiora  \i 001_schema.sql

BEGIN;

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

create extension if not exists btree_gist;

create sequence refresh_marks;

CREATE TABLE claims (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    worker TEXT NOT NULL, 
    event_ids BIGINT[] NOT NULL, 
    claimed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT claims_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE claims IS 'trace of a claim, committed before its effect and deleted with it; one that is left while its rows are pending and unlocked tells of a worker that died';

COMMENT ON COLUMN claims.worker IS 'host:pid';

CREATE TABLE listings (
    source TEXT NOT NULL, 
    listed_until TIMESTAMP WITH TIME ZONE NOT NULL, 
    listed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT listings_pkey PRIMARY KEY (source)
);

COMMENT ON TABLE listings IS 'up to when a source has been listed in full';

CREATE TABLE refreshes (
    kind TEXT NOT NULL, 
    object_id TEXT NOT NULL, 
    reason TEXT NOT NULL, 
    mark BIGINT DEFAULT nextval('refresh_marks') NOT NULL, 
    fetched_mark BIGINT DEFAULT 0 NOT NULL, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    marked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    error TEXT, 
    CONSTRAINT refreshes_pkey PRIMARY KEY (kind, object_id), 
    CONSTRAINT refreshes_kind_check CHECK (kind in ('call', 'customer', 'subscription', 'invoice', 'price', 'event'))
);

COMMENT ON TABLE refreshes IS 'objects to fetch from their owner: what we know of them is stale, or was never known';

COMMENT ON COLUMN refreshes.fetched_mark IS 'the mark that stood before the last fetch; 0: never fetched';

COMMENT ON COLUMN refreshes.attempts IS 'since the last success';

CREATE INDEX refreshes_due_idx ON refreshes (due_at) WHERE mark > fetched_mark;

CREATE TABLE stripe_customers (
    id TEXT NOT NULL, 
    named_business_id BIGINT, 
    deleted BOOLEAN DEFAULT false NOT NULL, 
    snapshot_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT stripe_customers_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE stripe_customers IS 'mirror of customers: which business one names in its metadata, and whether it lives';

COMMENT ON COLUMN stripe_customers.id IS 'cus_…';

COMMENT ON COLUMN stripe_customers.named_business_id IS 'metadata.business_id, unchecked';

CREATE TABLE subscription_plans (
    id SMALLINT NOT NULL, 
    code TEXT NOT NULL, 
    name TEXT NOT NULL, 
    price_cents INTEGER NOT NULL, 
    included_minutes INTEGER NOT NULL, 
    agents INTEGER NOT NULL, 
    numbers INTEGER NOT NULL, 
    increment_seconds INTEGER DEFAULT 60 NOT NULL, 
    bills_overage BOOLEAN NOT NULL, 
    CONSTRAINT subscription_plans_pkey PRIMARY KEY (id), 
    CONSTRAINT subscription_plans_increment_seconds_check CHECK (increment_seconds between 1 and 3600), 
    CONSTRAINT subscription_plans_figures_check CHECK (price_cents >= 0 and included_minutes >= 0 and agents >= 0 and numbers >= 0), 
    CONSTRAINT subscription_plans_code_key UNIQUE (code), 
    CONSTRAINT subscription_plans_name_key UNIQUE (name)
);

COMMENT ON TABLE subscription_plans IS 'the plans; seeded, idempotently';

COMMENT ON COLUMN subscription_plans.code IS 'free, starter, professional, enterprise';

COMMENT ON COLUMN subscription_plans.price_cents IS 'a month, in cents of the business''s currency';

COMMENT ON COLUMN subscription_plans.included_minutes IS 'a billing period';

COMMENT ON COLUMN subscription_plans.increment_seconds IS 'seconds are rounded up to it, then to whole minutes';

COMMENT ON COLUMN subscription_plans.bills_overage IS 'true: Stripe''s graduated price bills it; false: it is unbilled and the business is limited';

CREATE TABLE users (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    email TEXT NOT NULL, 
    name TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT users_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE users IS 'people who sign in; they own businesses or are members of them';

CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE webhook_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    provider TEXT NOT NULL, 
    key TEXT COLLATE "C" NOT NULL, 
    type TEXT, 
    state TEXT DEFAULT 'pending' NOT NULL, 
    reason TEXT, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    batch_limit INTEGER, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    received_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    stored_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    processed_at TIMESTAMP WITH TIME ZONE, 
    recovered BOOLEAN DEFAULT false NOT NULL, 
    content_type TEXT NOT NULL, 
    body BYTEA NOT NULL, 
    CONSTRAINT webhook_events_pkey PRIMARY KEY (id), 
    CONSTRAINT webhook_events_provider_check CHECK (provider in ('stripe', 'twilio')), 
    CONSTRAINT webhook_events_state_check CHECK (state in ('pending', 'processed', 'ignored', 'dead')), 
    CONSTRAINT webhook_events_reason_check CHECK (state not in ('ignored', 'dead') or reason is not null), 
    CONSTRAINT webhook_events_batch_limit_check CHECK (batch_limit > 0), 
    CONSTRAINT webhook_events_provider_key_key UNIQUE (provider, key)
)
 WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE webhook_events IS 'the queue of record: a 2xx means that the row is here';

COMMENT ON COLUMN webhook_events.key IS 'unique for the provider; begins with the CallSid or is the event id';

COMMENT ON COLUMN webhook_events.type IS 'Stripe''s event type, or call.<status>';

COMMENT ON COLUMN webhook_events.batch_limit IS 'set when a batch with this row died: it is tried again only with so many others';

COMMENT ON COLUMN webhook_events.due_at IS 'not before';

COMMENT ON COLUMN webhook_events.received_at IS 'business clock';

COMMENT ON COLUMN webhook_events.processed_at IS 'machine clock, when it left pending';

COMMENT ON COLUMN webhook_events.recovered IS 'found by asking the provider, not sent by it';

COMMENT ON COLUMN webhook_events.body IS 'raw, as signed';

CREATE INDEX webhook_events_dead_idx ON webhook_events (id) WHERE state = 'dead';

CREATE INDEX webhook_events_due_idx ON webhook_events (due_at, id) WHERE state = 'pending';

CREATE INDEX webhook_events_received_at_idx ON webhook_events USING brin (received_at);

CREATE TABLE businesses (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    owner_id BIGINT, 
    name TEXT NOT NULL, 
    time_zone TEXT NOT NULL, 
    plan_id SMALLINT NOT NULL, 
    stripe_customer_id TEXT, 
    limited_until TIMESTAMP WITH TIME ZONE, 
    suspended_at TIMESTAMP WITH TIME ZONE, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT businesses_pkey PRIMARY KEY (id), 
    CONSTRAINT businesses_name_check CHECK (length(name) between 1 and 200), 
    CONSTRAINT businesses_owner_id_fkey FOREIGN KEY(owner_id) REFERENCES users (id), 
    CONSTRAINT businesses_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES subscription_plans (id), 
    CONSTRAINT businesses_stripe_customer_id_key UNIQUE (stripe_customer_id)
);

COMMENT ON TABLE businesses IS 'the tenant: has one plan at a time; ended, never deleted';

COMMENT ON COLUMN businesses.owner_id IS 'null until its owner has signed up';

COMMENT ON COLUMN businesses.time_zone IS 'IANA name; a calendar month without a subscription is local to it';

COMMENT ON COLUMN businesses.limited_until IS 'service status limited while this lies in the future; it passes by itself';

COMMENT ON COLUMN businesses.suspended_at IS 'service status suspended while set';

CREATE INDEX businesses_owner_id_idx ON businesses (owner_id);

CREATE TABLE stripe_prices (
    id TEXT NOT NULL, 
    product_id TEXT, 
    plan_id SMALLINT, 
    usage_type TEXT NOT NULL, 
    meter_id TEXT, 
    active BOOLEAN NOT NULL, 
    snapshot_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT stripe_prices_pkey PRIMARY KEY (id), 
    CONSTRAINT stripe_prices_usage_type_check CHECK (usage_type in ('licensed', 'metered')), 
    CONSTRAINT stripe_prices_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES subscription_plans (id)
);

COMMENT ON TABLE stripe_prices IS 'mirror of the prices seen; plan_id is null while no plan has claimed one (drift unmapped-price)';

COMMENT ON COLUMN stripe_prices.id IS 'price_…';

COMMENT ON COLUMN stripe_prices.snapshot_at IS 'when Stripe said so';

CREATE INDEX stripe_prices_product_id_idx ON stripe_prices (product_id);

CREATE TABLE ai_agents (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    name TEXT NOT NULL, 
    language TEXT DEFAULT 'en' NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT ai_agents_pkey PRIMARY KEY (id), 
    CONSTRAINT ai_agents_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id)
);

COMMENT ON TABLE ai_agents IS 'an agent that answers a business''s calls; counted against the plan until it ends';

CREATE INDEX ai_agents_business_id_idx ON ai_agents (business_id);

CREATE TABLE api_keys (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    name TEXT NOT NULL, 
    prefix TEXT NOT NULL, 
    secret_sha256 BYTEA NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    revoked_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT api_keys_pkey PRIMARY KEY (id), 
    CONSTRAINT api_keys_secret_sha256_check CHECK (octet_length(secret_sha256) = 32), 
    CONSTRAINT api_keys_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT api_keys_secret_sha256_key UNIQUE (secret_sha256)
);

COMMENT ON TABLE api_keys IS 'keys of a business''s programs; only the digest of the secret is stored';

COMMENT ON COLUMN api_keys.prefix IS 'the first characters, to recognise it by';

CREATE INDEX api_keys_business_id_idx ON api_keys (business_id);

CREATE TABLE business_members (
    business_id BIGINT NOT NULL, 
    user_id BIGINT NOT NULL, 
    role TEXT DEFAULT 'member' NOT NULL, 
    joined_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT business_members_pkey PRIMARY KEY (business_id, user_id), 
    CONSTRAINT business_members_role_check CHECK (role in ('admin', 'member', 'billing')), 
    CONSTRAINT business_members_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT business_members_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE business_members IS 'links users to businesses that they work in';

CREATE INDEX business_members_user_id_idx ON business_members (user_id);

CREATE TABLE drifts (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    kind TEXT NOT NULL, 
    subject TEXT NOT NULL, 
    business_id BIGINT, 
    expected TEXT NOT NULL, 
    actual TEXT NOT NULL, 
    evidence JSONB DEFAULT '{}' NOT NULL, 
    found_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    resolved_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT drifts_pkey PRIMARY KEY (id), 
    CONSTRAINT drifts_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id)
);

COMMENT ON TABLE drifts IS 'a difference found: what was expected, what is; open until it is resolved';

COMMENT ON COLUMN drifts.subject IS 'what it is about, as price:price_… or record:12';

CREATE INDEX drifts_business_id_idx ON drifts (business_id);

CREATE UNIQUE INDEX drifts_open_key ON drifts (kind, subject) WHERE resolved_at is null;

CREATE TABLE stripe_invoices (
    id TEXT NOT NULL, 
    business_id BIGINT NOT NULL, 
    stripe_subscription_id TEXT, 
    status TEXT NOT NULL, 
    billing_reason TEXT, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    automatically_finalizes_at TIMESTAMP WITH TIME ZONE, 
    metered_period_start TIMESTAMP WITH TIME ZONE, 
    metered_period_end TIMESTAMP WITH TIME ZONE, 
    metered_quantity INTEGER, 
    amount_due_cents BIGINT NOT NULL, 
    currency TEXT NOT NULL, 
    snapshot_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT stripe_invoices_pkey PRIMARY KEY (id), 
    CONSTRAINT stripe_invoices_status_check CHECK (status in ('draft', 'open', 'paid', 'uncollectible', 'void')), 
    CONSTRAINT stripe_invoices_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id)
);

COMMENT ON TABLE stripe_invoices IS 'mirror of subscription invoices; a period is billable while its invoice is a draft';

COMMENT ON COLUMN stripe_invoices.id IS 'in_…';

COMMENT ON COLUMN stripe_invoices.metered_quantity IS 'minutes on the invoice; final once it is not a draft';

CREATE INDEX stripe_invoices_business_id_idx ON stripe_invoices (business_id);

CREATE INDEX stripe_invoices_subscription_period_idx ON stripe_invoices (stripe_subscription_id, metered_period_end);

CREATE TABLE subscriptions (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    stripe_id TEXT NOT NULL, 
    business_id BIGINT NOT NULL, 
    stripe_customer_id TEXT NOT NULL, 
    status TEXT NOT NULL, 
    plan_id SMALLINT, 
    metered_item_id TEXT, 
    metered_price_id TEXT, 
    period_start TIMESTAMP WITH TIME ZONE, 
    period_end TIMESTAMP WITH TIME ZONE, 
    billing_cycle_anchor TIMESTAMP WITH TIME ZONE, 
    started_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    trial_end TIMESTAMP WITH TIME ZONE, 
    cancel_at_period_end BOOLEAN DEFAULT false NOT NULL, 
    canceled_at TIMESTAMP WITH TIME ZONE, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    pause_collection JSONB, 
    price_ids JSONB NOT NULL, 
    api_version TEXT, 
    snapshot_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT subscriptions_pkey PRIMARY KEY (id), 
    CONSTRAINT subscriptions_period_check CHECK (period_start < period_end), 
    CONSTRAINT subscriptions_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT subscriptions_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES subscription_plans (id), 
    CONSTRAINT subscriptions_stripe_id_key UNIQUE (stripe_id)
);

COMMENT ON TABLE subscriptions IS 'mirror of Stripe''s subscriptions; status is Stripe''s own word';

COMMENT ON COLUMN subscriptions.stripe_id IS 'sub_…';

COMMENT ON COLUMN subscriptions.plan_id IS 'by its prices; null while none of them is mapped';

COMMENT ON COLUMN subscriptions.period_start IS 'of the metered item where there is one';

COMMENT ON COLUMN subscriptions.price_ids IS 'of all items';

COMMENT ON COLUMN subscriptions.snapshot_at IS 'when Stripe said so; only strictly newer ones replace it';

CREATE INDEX subscriptions_business_id_idx ON subscriptions (business_id);

CREATE TABLE agent_knowledge (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    agent_id BIGINT NOT NULL, 
    title TEXT NOT NULL, 
    content TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT agent_knowledge_pkey PRIMARY KEY (id), 
    CONSTRAINT agent_knowledge_agent_id_fkey FOREIGN KEY(agent_id) REFERENCES ai_agents (id)
);

COMMENT ON TABLE agent_knowledge IS 'what an agent knows about its business';

CREATE INDEX agent_knowledge_agent_id_idx ON agent_knowledge (agent_id);

CREATE TABLE agent_scripts (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    agent_id BIGINT NOT NULL, 
    name TEXT NOT NULL, 
    version INTEGER DEFAULT 1 NOT NULL, 
    body TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT agent_scripts_pkey PRIMARY KEY (id), 
    CONSTRAINT agent_scripts_version_check CHECK (version > 0), 
    CONSTRAINT agent_scripts_agent_id_fkey FOREIGN KEY(agent_id) REFERENCES ai_agents (id), 
    CONSTRAINT agent_scripts_agent_id_name_version_key UNIQUE (agent_id, name, version)
);

COMMENT ON TABLE agent_scripts IS 'what an agent says, by version';

CREATE TABLE phone_numbers (
    number TEXT NOT NULL, 
    business_id BIGINT, 
    agent_id BIGINT, 
    twilio_sid TEXT, 
    CONSTRAINT phone_numbers_pkey PRIMARY KEY (number), 
    CONSTRAINT phone_numbers_e164_check CHECK (number ~ '^\+[1-9][0-9]{1,14}$'), 
    CONSTRAINT phone_numbers_agent_id_fkey FOREIGN KEY(agent_id) REFERENCES ai_agents (id), 
    CONSTRAINT phone_numbers_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT phone_numbers_twilio_sid_key UNIQUE (twilio_sid)
);

COMMENT ON TABLE phone_numbers IS 'a Twilio number and its present holder';

COMMENT ON COLUMN phone_numbers.number IS 'E.164';

CREATE INDEX phone_numbers_agent_id_idx ON phone_numbers (agent_id);

CREATE INDEX phone_numbers_business_id_idx ON phone_numbers (business_id);

CREATE TABLE subscription_changes (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    subscription_id BIGINT NOT NULL, 
    kind TEXT NOT NULL, 
    params JSONB NOT NULL, 
    identifier TEXT NOT NULL, 
    state TEXT DEFAULT 'planned' NOT NULL, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    server_errors INTEGER DEFAULT 0 NOT NULL, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    answer TEXT, 
    reason TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    settled_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT subscription_changes_pkey PRIMARY KEY (id), 
    CONSTRAINT subscription_changes_kind_check CHECK (kind in ('cancel-at-period-end', 'keep', 'pause-collection', 'resume-collection')), 
    CONSTRAINT subscription_changes_state_check CHECK (state in ('planned', 'sending', 'done', 'failed')), 
    CONSTRAINT subscription_changes_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT subscription_changes_subscription_id_fkey FOREIGN KEY(subscription_id) REFERENCES subscriptions (id), 
    CONSTRAINT subscription_changes_identifier_key UNIQUE (identifier)
);

COMMENT ON TABLE subscription_changes IS 'outbox: changes of subscriptions for Stripe; frozen';

COMMENT ON COLUMN subscription_changes.params IS 'the body for Stripe';

COMMENT ON COLUMN subscription_changes.identifier IS 'begins the idempotency keys';

COMMENT ON COLUMN subscription_changes.attempts IS '429 costs none';

COMMENT ON COLUMN subscription_changes.server_errors IS '5xx answers: each makes the next idempotency key a new one';

COMMENT ON COLUMN subscription_changes.due_at IS 'not before; while sending, the end of the lease';

COMMENT ON COLUMN subscription_changes.reason IS 'who or what wanted it';

COMMENT ON COLUMN subscription_changes.settled_at IS 'machine clock';

CREATE INDEX subscription_changes_business_id_idx ON subscription_changes (business_id);

CREATE INDEX subscription_changes_due_idx ON subscription_changes (due_at) WHERE state in ('planned', 'sending');

CREATE UNIQUE INDEX subscription_changes_one_unsettled ON subscription_changes (subscription_id) WHERE state in ('planned', 'sending');

CREATE TABLE usage_records (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    plan_id SMALLINT NOT NULL, 
    subscription_id BIGINT, 
    period_start TIMESTAMP WITH TIME ZONE NOT NULL, 
    period_end TIMESTAMP WITH TIME ZONE NOT NULL, 
    state TEXT DEFAULT 'open' NOT NULL, 
    provisional BOOLEAN DEFAULT false NOT NULL, 
    included_minutes INTEGER NOT NULL, 
    calls INTEGER DEFAULT 0 NOT NULL, 
    seconds BIGINT DEFAULT 0 NOT NULL, 
    minutes INTEGER DEFAULT 0 NOT NULL, 
    adjustment_minutes INTEGER DEFAULT 0 NOT NULL, 
    pushed_minutes INTEGER DEFAULT 0 NOT NULL, 
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    closed_at TIMESTAMP WITH TIME ZONE, 
    invoiced_minutes INTEGER, 
    settled_at TIMESTAMP WITH TIME ZONE, 
    statement JSONB, 
    CONSTRAINT usage_records_pkey PRIMARY KEY (id), 
    CONSTRAINT usage_records_no_overlap EXCLUDE USING gist (business_id WITH =, tstzrange(period_start, period_end) WITH &&), 
    CONSTRAINT usage_records_closed_at_check CHECK ((state = 'closed') = (closed_at is not null)), 
    CONSTRAINT usage_records_state_check CHECK (state in ('open', 'closing', 'closed')), 
    CONSTRAINT usage_records_figures_check CHECK (calls >= 0 and seconds >= 0), 
    CONSTRAINT usage_records_period_check CHECK (period_start < period_end), 
    CONSTRAINT usage_records_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT usage_records_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES subscription_plans (id), 
    CONSTRAINT usage_records_subscription_id_fkey FOREIGN KEY(subscription_id) REFERENCES subscriptions (id), 
    CONSTRAINT usage_records_business_id_period_start_key UNIQUE (business_id, period_start)
)
 WITH (fillfactor = 50);

COMMENT ON TABLE usage_records IS 'one business in one billing period, half-open, UTC';

COMMENT ON COLUMN usage_records.subscription_id IS 'whose metered item''s period this is; null: calendar month, not for Stripe';

COMMENT ON COLUMN usage_records.provisional IS 'bounds by anchor arithmetic; nothing is pushed or closed from it';

COMMENT ON COLUMN usage_records.included_minutes IS 'the plan''s, when the record was made or the plan changed';

COMMENT ON COLUMN usage_records.minutes IS 'of its calls and its adjustments';

COMMENT ON COLUMN usage_records.adjustment_minutes IS 'the part carried into it';

COMMENT ON COLUMN usage_records.pushed_minutes IS 'sum of the pushes with a timestamp in the period that Stripe accepted';

COMMENT ON COLUMN usage_records.invoiced_minutes IS 'on the finalised invoice';

COMMENT ON COLUMN usage_records.settled_at IS 'when the finalised invoice was compared and the difference carried';

COMMENT ON COLUMN usage_records.statement IS 'frozen at the close';

CREATE INDEX usage_records_closing_idx ON usage_records (period_end) WHERE state = 'closing';

CREATE INDEX usage_records_due_idx ON usage_records (period_end) WHERE state = 'open';

CREATE INDEX usage_records_pushable_idx ON usage_records (business_id) WHERE state <> 'closed' and subscription_id is not null;

CREATE INDEX usage_records_unsettled_idx ON usage_records (business_id) WHERE state = 'closed' and subscription_id is not null and settled_at is null;

CREATE TABLE calls (
    sid TEXT NOT NULL, 
    parent_sid TEXT, 
    business_id BIGINT, 
    number TEXT, 
    direction TEXT, 
    from_number TEXT, 
    to_number TEXT, 
    status TEXT NOT NULL, 
    rank BIGINT NOT NULL, 
    started_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    estimated BOOLEAN DEFAULT false NOT NULL, 
    seconds INTEGER, 
    minutes INTEGER DEFAULT 0 NOT NULL, 
    counted BOOLEAN DEFAULT false NOT NULL, 
    counted_minutes INTEGER DEFAULT 0 NOT NULL, 
    counted_seconds INTEGER DEFAULT 0 NOT NULL, 
    usage_record_id BIGINT, 
    price NUMERIC(12, 6), 
    price_unit TEXT, 
    event_id BIGINT, 
    was_business_id BIGINT, 
    was_usage_record_id BIGINT, 
    was_counted BOOLEAN DEFAULT false NOT NULL, 
    was_minutes INTEGER DEFAULT 0 NOT NULL, 
    was_counted_minutes INTEGER DEFAULT 0 NOT NULL, 
    was_counted_seconds INTEGER DEFAULT 0 NOT NULL, 
    CONSTRAINT calls_pkey PRIMARY KEY (sid), 
    CONSTRAINT calls_status_check CHECK (status in ('queued', 'initiated', 'ringing', 'in-progress', 'completed', 'busy', 'no-answer', 'failed', 'canceled')), 
    CONSTRAINT calls_price_check CHECK ((price is null) = (price_unit is null)), 
    CONSTRAINT calls_counted_figures_check CHECK (counted or (counted_minutes = 0 and counted_seconds = 0)), 
    CONSTRAINT calls_figures_check CHECK (minutes >= 0 and counted_minutes >= 0 and counted_seconds >= 0), 
    CONSTRAINT calls_counted_somewhere_check CHECK (not counted or usage_record_id is not null), 
    CONSTRAINT calls_seconds_check CHECK (seconds >= 0), 
    CONSTRAINT calls_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT calls_usage_record_id_fkey FOREIGN KEY(usage_record_id) REFERENCES usage_records (id)
);

COMMENT ON TABLE calls IS 'one Twilio call leg';

COMMENT ON COLUMN calls.business_id IS 'null: a child leg whose parent is not known yet';

COMMENT ON COLUMN calls.number IS 'the number of ours that the call was charged by';

COMMENT ON COLUMN calls.rank IS 'orders reports of a call: terminal, API over callback, sequence or fetch instant';

COMMENT ON COLUMN calls.ended_at IS 'null until the leg has ended';

COMMENT ON COLUMN calls.estimated IS 'the end is when we received it, for want of a timestamp';

COMMENT ON COLUMN calls.seconds IS 'null: not known (yet)';

COMMENT ON COLUMN calls.minutes IS 'billable minutes by all that is known';

COMMENT ON COLUMN calls.counted IS 'part of its usage record''s figures; frozen once the record has closed';

COMMENT ON COLUMN calls.price IS 'what Twilio charged us; often known only later';

COMMENT ON COLUMN calls.event_id IS 'the webhook event that set the present state';

CREATE INDEX calls_orphans_idx ON calls (parent_sid) WHERE business_id is null;

CREATE INDEX calls_usage_record_id_idx ON calls (usage_record_id);

CREATE TABLE meter_pushes (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    usage_record_id BIGINT NOT NULL, 
    identifier TEXT NOT NULL, 
    event_name TEXT NOT NULL, 
    stripe_customer_id TEXT NOT NULL, 
    minutes INTEGER NOT NULL, 
    timestamp TIMESTAMP WITH TIME ZONE NOT NULL, 
    state TEXT DEFAULT 'planned' NOT NULL, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    server_errors INTEGER DEFAULT 0 NOT NULL, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    first_sent_at TIMESTAMP WITH TIME ZONE, 
    settled_at TIMESTAMP WITH TIME ZONE, 
    answer TEXT, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT meter_pushes_pkey PRIMARY KEY (id), 
    CONSTRAINT meter_pushes_state_check CHECK (state in ('planned', 'sending', 'sent', 'failed', 'released', 'unknown', 'void')), 
    CONSTRAINT meter_pushes_identifier_check CHECK (length(identifier) <= 100), 
    CONSTRAINT meter_pushes_minutes_check CHECK (minutes <> 0), 
    CONSTRAINT meter_pushes_timestamp_check CHECK (mod(extract(epoch from timestamp), 60) = 0), 
    CONSTRAINT meter_pushes_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT meter_pushes_usage_record_id_fkey FOREIGN KEY(usage_record_id) REFERENCES usage_records (id), 
    CONSTRAINT meter_pushes_identifier_key UNIQUE (identifier)
);

COMMENT ON TABLE meter_pushes IS 'outbox: meter events for Stripe; a trigger keeps identifier, value and timestamp frozen';

COMMENT ON COLUMN meter_pushes.minutes IS 'the delta; negative corrects';

COMMENT ON COLUMN meter_pushes.timestamp IS 'a whole minute inside the period';

COMMENT ON COLUMN meter_pushes.attempts IS '429 costs none';

COMMENT ON COLUMN meter_pushes.server_errors IS '5xx answers: each makes the next idempotency key a new one';

COMMENT ON COLUMN meter_pushes.due_at IS 'not before; while sending, the end of the lease';

COMMENT ON COLUMN meter_pushes.first_sent_at IS 'machine clock; Stripe''s identifier window runs from it';

COMMENT ON COLUMN meter_pushes.settled_at IS 'machine clock';

COMMENT ON COLUMN meter_pushes.answer IS 'Stripe''s words';

CREATE INDEX meter_pushes_business_id_timestamp_idx ON meter_pushes (business_id, timestamp);

CREATE INDEX meter_pushes_due_idx ON meter_pushes (due_at) WHERE state in ('planned', 'sending');

CREATE INDEX meter_pushes_failed_idx ON meter_pushes (usage_record_id) WHERE state = 'failed';

CREATE UNIQUE INDEX meter_pushes_one_unsettled ON meter_pushes (business_id) WHERE state in ('planned', 'sending', 'unknown');

CREATE INDEX meter_pushes_usage_record_id_idx ON meter_pushes (usage_record_id);

CREATE TABLE phone_number_assignments (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    number TEXT NOT NULL, 
    business_id BIGINT NOT NULL, 
    held TSTZRANGE NOT NULL, 
    CONSTRAINT phone_number_assignments_pkey PRIMARY KEY (id), 
    CONSTRAINT phone_number_assignments_one_holder EXCLUDE USING gist (number WITH =, held WITH &&), 
    CONSTRAINT phone_number_assignments_held_check CHECK (not isempty(held)), 
    CONSTRAINT phone_number_assignments_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT phone_number_assignments_number_fkey FOREIGN KEY(number) REFERENCES phone_numbers (number)
);

COMMENT ON TABLE phone_number_assignments IS 'who held a number when; a call belongs to the holder at its start';

COMMENT ON COLUMN phone_number_assignments.held IS 'half-open, business clock';

CREATE INDEX phone_number_assignments_business_id_idx ON phone_number_assignments (business_id);

CREATE INDEX phone_number_assignments_number_idx ON phone_number_assignments (number);

CREATE TABLE usage_adjustments (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    kind TEXT NOT NULL, 
    usage_record_id BIGINT, 
    origin_record_id BIGINT NOT NULL, 
    call_sid TEXT, 
    minutes INTEGER NOT NULL, 
    event_id BIGINT, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT usage_adjustments_pkey PRIMARY KEY (id), 
    CONSTRAINT usage_adjustments_carried_somewhere_check CHECK ((kind = 'carried') = (usage_record_id is not null)), 
    CONSTRAINT usage_adjustments_kind_check CHECK (kind in ('carried', 'written-off', 'unbillable')), 
    CONSTRAINT usage_adjustments_minutes_check CHECK (minutes <> 0), 
    CONSTRAINT usage_adjustments_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT usage_adjustments_origin_record_id_fkey FOREIGN KEY(origin_record_id) REFERENCES usage_records (id), 
    CONSTRAINT usage_adjustments_usage_record_id_fkey FOREIGN KEY(usage_record_id) REFERENCES usage_records (id)
);

COMMENT ON TABLE usage_adjustments IS 'minutes carried between periods, each with its call (or settlement) and its own period';

COMMENT ON COLUMN usage_adjustments.call_sid IS 'null: the difference to the finalised invoice';

CREATE INDEX usage_adjustments_business_id_idx ON usage_adjustments (business_id);

CREATE INDEX usage_adjustments_call_sid_idx ON usage_adjustments (call_sid);

CREATE INDEX usage_adjustments_origin_record_id_idx ON usage_adjustments (origin_record_id);

CREATE INDEX usage_adjustments_usage_record_id_idx ON usage_adjustments (usage_record_id);

CREATE TABLE usage_alerts (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    kind TEXT NOT NULL, 
    usage_record_id BIGINT, 
    plan_id SMALLINT NOT NULL, 
    value INTEGER NOT NULL, 
    "limit" INTEGER NOT NULL, 
    raised_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    resolved_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT usage_alerts_pkey PRIMARY KEY (id), 
    CONSTRAINT usage_alerts_kind_check CHECK (kind in ('minutes-80', 'minutes-100', 'agents', 'numbers')), 
    CONSTRAINT usage_alerts_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT usage_alerts_plan_id_fkey FOREIGN KEY(plan_id) REFERENCES subscription_plans (id), 
    CONSTRAINT usage_alerts_usage_record_id_fkey FOREIGN KEY(usage_record_id) REFERENCES usage_records (id)
);

COMMENT ON TABLE usage_alerts IS 'a limit reached: minutes once per record, agents and numbers once until it is resolved';

COMMENT ON COLUMN usage_alerts.value IS 'what there was: minutes, agents, numbers';

COMMENT ON COLUMN usage_alerts."limit" IS 'what the plan includes';

CREATE UNIQUE INDEX usage_alerts_once ON usage_alerts (business_id, kind, usage_record_id, plan_id) NULLS NOT DISTINCT WHERE resolved_at is null;

CREATE TABLE call_transcripts (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    call_sid TEXT NOT NULL, 
    language TEXT, 
    content TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT call_transcripts_pkey PRIMARY KEY (id), 
    CONSTRAINT call_transcripts_call_sid_fkey FOREIGN KEY(call_sid) REFERENCES calls (sid)
);

COMMENT ON TABLE call_transcripts IS 'what was said';

CREATE INDEX call_transcripts_call_sid_idx ON call_transcripts (call_sid);

create function frozen_push() returns trigger language plpgsql as $$
begin
  if (new.business_id, new.usage_record_id, new.identifier, new.event_name, new.stripe_customer_id,
      new.minutes, new.timestamp)
     is distinct from
     (old.business_id, old.usage_record_id, old.identifier, old.event_name, old.stripe_customer_id,
      old.minutes, old.timestamp) then
    raise exception using message = 'meter push ' || old.identifier || ' is frozen: plan a new one instead';
  end if;
  if new.state <> old.state and old.state in ('sent', 'void', 'released')
     and not (old.state = 'sent' and new.state = 'failed') then
    raise exception using message = 'meter push ' || old.identifier || ' is ' || old.state || ' and stays so';
  end if;
  return new;
end $$;
create trigger frozen before update on meter_pushes for each row execute function frozen_push();;

create function frozen_change() returns trigger language plpgsql as $$
begin
  if (new.business_id, new.subscription_id, new.kind, new.params, new.identifier)
     is distinct from
     (old.business_id, old.subscription_id, old.kind, old.params, old.identifier) then
    raise exception using message =
      'subscription change ' || old.identifier || ' is frozen: plan a new one instead';
  end if;
  if new.state <> old.state and old.state in ('done', 'failed') then
    raise exception using message =
      'subscription change ' || old.identifier || ' is ' || old.state || ' and stays so';
  end if;
  return new;
end $$;
create trigger frozen before update on subscription_changes for each row execute function frozen_change();;

insert into subscription_plans (id, code, name, price_cents, included_minutes, agents, numbers, bills_overage)
values (1, 'free', 'Free', 0, 50, 1, 1, false),
       (2, 'starter', 'Starter', 4900, 500, 3, 2, true),
       (3, 'professional', 'Professional', 14900, 2000, 10, 5, true),
       (4, 'enterprise', 'Enterprise', 49900, 10000, 50, 20, true);

INSERT INTO alembic_version (version_num) VALUES ('0001') RETURNING alembic_version.version_num;

COMMIT;

BEGIN;

-- Running upgrade 0001 -> 0002

CREATE TABLE service_transitions (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    from_status TEXT NOT NULL, 
    to_status TEXT NOT NULL, 
    rule TEXT NOT NULL, 
    until TIMESTAMP WITH TIME ZONE, 
    cause TEXT NOT NULL, 
    at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT service_transitions_pkey PRIMARY KEY (id), 
    CONSTRAINT service_transitions_from_status_check CHECK (from_status in ('active', 'grace', 'limited', 'suspended')), 
    CONSTRAINT service_transitions_to_status_check CHECK (to_status in ('active', 'grace', 'limited', 'suspended')), 
    CONSTRAINT service_transitions_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id)
);

COMMENT ON TABLE service_transitions IS 'each change of whether a business may take calls: by which rule of pipeline/service_rules.py';

COMMENT ON COLUMN service_transitions.until IS 'when grace or limit pass by themselves';

COMMENT ON COLUMN service_transitions.cause IS 'what was looked at: an object of Stripe''s, the minutes, the clock';

CREATE INDEX service_transitions_business_id_at_idx ON service_transitions (business_id, at);

CREATE TABLE stripe_invoice_lines (
    invoice_id TEXT NOT NULL, 
    price_id TEXT NOT NULL, 
    period_start TIMESTAMP WITH TIME ZONE NOT NULL, 
    period_end TIMESTAMP WITH TIME ZONE NOT NULL, 
    stripe_subscription_id TEXT NOT NULL, 
    minutes INTEGER NOT NULL, 
    amount_cents BIGINT NOT NULL, 
    mid_period BOOLEAN DEFAULT false NOT NULL, 
    CONSTRAINT stripe_invoice_lines_pkey PRIMARY KEY (invoice_id, price_id, period_start, period_end), 
    CONSTRAINT stripe_invoice_lines_period_check CHECK (period_start < period_end), 
    CONSTRAINT stripe_invoice_lines_invoice_id_fkey FOREIGN KEY(invoice_id) REFERENCES stripe_invoices (id) ON DELETE CASCADE
);

COMMENT ON TABLE stripe_invoice_lines IS 'minutes that an invoice bills, by price and the time that it counted for: the lines of all its tiers together; final once the invoice is no draft';

COMMENT ON COLUMN stripe_invoice_lines.mid_period IS 'its price came inside the period, in place of another';

CREATE INDEX stripe_invoice_lines_span_idx ON stripe_invoice_lines (stripe_subscription_id, period_end);

insert into stripe_invoice_lines
  (invoice_id, price_id, period_start, period_end, stripe_subscription_id, minutes, amount_cents)
select i.id, coalesce(s.metered_price_id, 'unknown'), i.metered_period_start, i.metered_period_end,
       i.stripe_subscription_id, coalesce(i.metered_quantity, 0), 0
from stripe_invoices i left join subscriptions s on s.stripe_id = i.stripe_subscription_id
where i.metered_period_start is not null and i.stripe_subscription_id is not null;

ALTER TABLE businesses ADD COLUMN grace_until TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN businesses.grace_until IS 'a payment is overdue; the service is suspended when this has passed';

CREATE INDEX businesses_grace_idx ON businesses (grace_until) WHERE suspended_at is null;

ALTER TABLE stripe_invoices ADD COLUMN finalized_at TIMESTAMP WITH TIME ZONE;

ALTER TABLE stripe_invoices ADD COLUMN attempt_count INTEGER DEFAULT 0 NOT NULL;

COMMENT ON COLUMN stripe_invoices.attempt_count IS 'attempts to collect it';

DROP INDEX stripe_invoices_subscription_period_idx;

CREATE INDEX stripe_invoices_overdue_idx ON stripe_invoices (business_id) WHERE status = 'open' and attempt_count > 0;

ALTER TABLE stripe_invoices DROP COLUMN metered_period_start;

ALTER TABLE stripe_invoices DROP COLUMN metered_quantity;

ALTER TABLE stripe_invoices DROP COLUMN metered_period_end;

COMMENT ON COLUMN subscription_changes.params IS 'what is wanted, in the words of its kind';

DROP INDEX subscription_changes_one_unsettled;

CREATE UNIQUE INDEX subscription_changes_one_unsettled ON subscription_changes (subscription_id, kind, state) WHERE state in ('planned', 'sending');

ALTER TABLE subscription_plans ADD COLUMN payment_grace_days INTEGER DEFAULT 7 NOT NULL;

COMMENT ON COLUMN subscription_plans.payment_grace_days IS 'from an invoice whose payment failed to the suspension of the service';

ALTER TABLE subscriptions ADD COLUMN metered_since TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN subscriptions.metered_since IS 'when the metered price came, where that was inside the period: its included minutes count from then';

ALTER TABLE usage_records ADD COLUMN allowance_month DATE;

COMMENT ON COLUMN usage_records.allowance_month IS 'without a subscription: the local calendar month whose included minutes its records share';

ALTER TABLE usage_records ADD COLUMN cut BOOLEAN DEFAULT false NOT NULL;

COMMENT ON COLUMN usage_records.cut IS 'ended inside Stripe''s period by another price: Stripe has counted, and takes nothing more for it';

update usage_records r
set allowance_month = date_trunc('month', r.period_start at time zone b.time_zone)::date
from businesses b
where b.id = r.business_id and r.subscription_id is null;

ALTER TABLE subscription_changes DROP CONSTRAINT subscription_changes_kind_check;

ALTER TABLE subscription_changes ADD CONSTRAINT subscription_changes_kind_check CHECK (kind in ('cancel-at-period-end', 'keep', 'pause-collection', 'resume-collection', 'cancel-now', 'upgrade', 'downgrade', 'metadata'));

UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001';

COMMIT;

BEGIN;

-- Running upgrade 0002 -> 0003

CREATE TABLE sources (
    source TEXT NOT NULL, 
    heard_at TIMESTAMP WITH TIME ZONE, 
    heard_machine_at TIMESTAMP WITH TIME ZONE, 
    longest_gap INTERVAL DEFAULT '24 hours' NOT NULL, 
    CONSTRAINT sources_pkey PRIMARY KEY (source), 
    CONSTRAINT sources_source_check CHECK (source in ('twilio-callbacks', 'stripe-events'))
);

COMMENT ON TABLE sources IS 'heartbeats: when something last came from a source, and for how long it usually does not';

COMMENT ON COLUMN sources.heard_at IS 'business clock; null: never yet';

COMMENT ON COLUMN sources.heard_machine_at IS 'machine clock';

COMMENT ON COLUMN sources.longest_gap IS 'the longest silence of late; an old one counts ever less';

INSERT INTO sources (source) VALUES ('twilio-callbacks');

INSERT INTO sources (source) VALUES ('stripe-events');

COMMENT ON TABLE listings IS 'up to when a source has been listed in full, or its days compared';

ALTER TABLE meter_pushes ADD COLUMN last_sent_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN meter_pushes.last_sent_at IS 'machine clock; Stripe''s sum can tell of it some time later';

ALTER TABLE meter_pushes ADD COLUMN doubt TEXT;

COMMENT ON COLUMN meter_pushes.doubt IS 'under verification: the event of Stripe''s that says some of its time were invalid, not which';

ALTER TABLE meter_pushes ADD COLUMN looked_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN meter_pushes.looked_at IS 'machine clock: Stripe''s sum was last asked for then';

CREATE INDEX meter_pushes_doubt_idx ON meter_pushes (id) WHERE doubt is not null;

CREATE INDEX meter_pushes_created_at_idx ON meter_pushes USING brin (created_at);

CREATE INDEX calls_started_at_idx ON calls USING brin (started_at);

CREATE TABLE stripe_sums (
    usage_record_id BIGINT NOT NULL, 
    until TIMESTAMP WITH TIME ZONE NOT NULL, 
    sent INTEGER NOT NULL, 
    summed NUMERIC NOT NULL, 
    compared_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT stripe_sums_pkey PRIMARY KEY (usage_record_id), 
    CONSTRAINT stripe_sums_usage_record_id_fkey FOREIGN KEY(usage_record_id) REFERENCES usage_records (id) ON DELETE CASCADE
);

COMMENT ON TABLE stripe_sums IS 'Stripe''s own sum of a record''s minutes beside what it was sent, as last compared';

COMMENT ON COLUMN stripe_sums.until IS 'minutes from here on were not settled yet, and are left out';

COMMENT ON COLUMN stripe_sums.sent IS 'minutes of the pushes that Stripe took';

COMMENT ON COLUMN stripe_sums.summed IS 'minutes by Stripe''s summary';

ALTER TABLE drifts ADD COLUMN repair TEXT;

COMMENT ON COLUMN drifts.repair IS 'what is proposed to be done';

ALTER TABLE drifts ADD COLUMN note TEXT;

COMMENT ON COLUMN drifts.note IS 'how a person resolved it; null: it ended by itself';

ALTER TABLE subscription_plans ADD COLUMN late_policy TEXT DEFAULT 'carry' NOT NULL;

COMMENT ON COLUMN subscription_plans.late_policy IS 'what becomes of minutes that come too late for a paid period';

ALTER TABLE subscription_plans ADD COLUMN late_limit_minutes INTEGER DEFAULT 3000 NOT NULL;

COMMENT ON COLUMN subscription_plans.late_limit_minutes IS 'late minutes of one period beyond this are held, for a person to decide';

ALTER TABLE subscription_plans ADD CONSTRAINT subscription_plans_late_policy_check CHECK (late_policy in ('carry', 'write-off'));

ALTER TABLE subscription_plans ADD CONSTRAINT subscription_plans_late_limit_minutes_check CHECK (late_limit_minutes >= 0);

ALTER TABLE usage_adjustments DROP CONSTRAINT usage_adjustments_kind_check;

ALTER TABLE usage_adjustments ADD CONSTRAINT usage_adjustments_kind_check CHECK (kind in ('carried', 'written-off', 'unbillable', 'held'));

CREATE INDEX usage_adjustments_held_idx ON usage_adjustments (origin_record_id) WHERE kind = 'held';

UPDATE alembic_version SET version_num='0003' WHERE alembic_version.version_num = '0002';

COMMIT;

BEGIN;

-- Running upgrade 0003 -> 0004

CREATE INDEX calls_uncounted_idx ON calls (business_id, ended_at) WHERE usage_record_id is null and ended_at is not null;

UPDATE alembic_version SET version_num='0004' WHERE alembic_version.version_num = '0003';

COMMIT;

BEGIN;

-- Running upgrade 0004 -> 0005

COMMENT ON TABLE service_transitions IS 'each change of whether a business may take calls: by which of the service rules';

UPDATE alembic_version SET version_num='0005' WHERE alembic_version.version_num = '0004';

COMMIT;

BEGIN;

-- Running upgrade 0005 -> 0006

set local lock_timeout = '5s';

ALTER TABLE subscriptions ADD COLUMN cancel_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN subscriptions.cancel_at IS 'when it ends, where somebody has said so: at its period''s end, or at an instant (the portal''s way)';

UPDATE alembic_version SET version_num='0006' WHERE alembic_version.version_num = '0005';

COMMIT;

BEGIN;

-- Running upgrade 0006 -> 0007

set local lock_timeout = '5s';

CREATE TABLE stripe_meters (
    id TEXT NOT NULL, 
    event_name TEXT NOT NULL, 
    active BOOLEAN NOT NULL, 
    sums_by_our_keys BOOLEAN NOT NULL, 
    snapshot_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT stripe_meters_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE stripe_meters IS 'mirror of the meters that prices name: one of them counts minutes';

COMMENT ON COLUMN stripe_meters.id IS 'mtr_…';

COMMENT ON COLUMN stripe_meters.sums_by_our_keys IS 'it adds up the value of each stripe_customer_id';

COMMENT ON COLUMN stripe_meters.snapshot_at IS 'when Stripe said so';

CREATE TABLE subscription_items (
    subscription_id BIGINT NOT NULL, 
    id TEXT NOT NULL, 
    price_id TEXT NOT NULL, 
    role TEXT NOT NULL, 
    quantity BIGINT, 
    CONSTRAINT subscription_items_pkey PRIMARY KEY (subscription_id, id), 
    CONSTRAINT subscription_items_role_check CHECK (role in ('minutes', 'fee', 'add-on')), 
    CONSTRAINT subscription_items_subscription_id_fkey FOREIGN KEY(subscription_id) REFERENCES subscriptions (id) ON DELETE CASCADE
);

COMMENT ON TABLE subscription_items IS 'mirror of the items that subscriptions have: minutes and fee are the plan''s, the rest add-ons';

COMMENT ON COLUMN subscription_items.id IS 'si_…';

COMMENT ON COLUMN subscription_items.role IS 'what its price is to us';

COMMENT ON COLUMN subscription_items.quantity IS 'null: metered';

CREATE INDEX subscription_items_price_id_idx ON subscription_items (price_id);

insert into subscription_items (id, subscription_id, price_id, role)
select metered_item_id, id, metered_price_id, 'minutes' from subscriptions
where metered_item_id is not null and metered_price_id is not null
on conflict do nothing;

ALTER TABLE refreshes DROP CONSTRAINT refreshes_kind_check;

ALTER TABLE refreshes ADD CONSTRAINT refreshes_kind_check CHECK (kind in ('call', 'customer', 'subscription', 'invoice', 'price', 'meter', 'event'));

ALTER TABLE subscriptions ALTER COLUMN price_ids SET DEFAULT '[]';

COMMENT ON COLUMN subscriptions.price_ids IS 'written no longer';

UPDATE alembic_version SET version_num='0007' WHERE alembic_version.version_num = '0006';

COMMIT;

BEGIN;

-- Running upgrade 0007 -> 0008

set local lock_timeout = '5s';

ALTER TABLE usage_records ADD COLUMN increment_seconds INTEGER DEFAULT 60 NOT NULL;

COMMENT ON COLUMN usage_records.increment_seconds IS 'of the plan when it was made: its calls are rounded up to it';

ALTER TABLE usage_records ADD COLUMN late_policy TEXT DEFAULT 'carry' NOT NULL;

COMMENT ON COLUMN usage_records.late_policy IS 'of the plan when it was made';

ALTER TABLE usage_records ADD COLUMN late_limit_minutes INTEGER DEFAULT 3000 NOT NULL;

COMMENT ON COLUMN usage_records.late_limit_minutes IS 'of the plan when it was made';

ALTER TABLE usage_records ADD CONSTRAINT usage_records_increment_seconds_check CHECK (increment_seconds between 1 and 3600);

ALTER TABLE usage_records ADD CONSTRAINT usage_records_late_policy_check CHECK (late_policy in ('carry', 'write-off'));

update usage_records r
set increment_seconds = p.increment_seconds, late_policy = p.late_policy, late_limit_minutes = p.late_limit_minutes
from subscription_plans p
where p.id = r.plan_id
  and (r.increment_seconds, r.late_policy, r.late_limit_minutes)
      <> (p.increment_seconds, p.late_policy, p.late_limit_minutes);

UPDATE alembic_version SET version_num='0008' WHERE alembic_version.version_num = '0007';

COMMIT;

BEGIN;

-- Running upgrade 0008 -> 0009

set local lock_timeout = '5s';

ALTER TABLE stripe_prices ADD COLUMN currency TEXT;

COMMENT ON COLUMN stripe_prices.currency IS 'its own; it may have others';

ALTER TABLE stripe_prices ADD COLUMN billing_interval TEXT;

COMMENT ON COLUMN stripe_prices.billing_interval IS 'day, week, month or year';

ALTER TABLE stripe_prices ADD COLUMN interval_count INTEGER;

ALTER TABLE stripe_prices ADD COLUMN lookup_key TEXT;

ALTER TABLE stripe_prices ADD COLUMN tariffs JSONB;

COMMENT ON COLUMN stripe_prices.tariffs IS 'by currency: included minutes, and tiers of end, amount a unit, flat amount; null: not fetched yet';

ALTER TABLE subscriptions ADD COLUMN currency TEXT;

ALTER TABLE usage_records ADD COLUMN price_id TEXT;

COMMENT ON COLUMN usage_records.price_id IS 'that bills its minutes';

ALTER TABLE usage_records ADD COLUMN currency TEXT;

ALTER TABLE usage_records ADD COLUMN tiers JSONB;

COMMENT ON COLUMN usage_records.tiers IS 'of that price in that currency; null: none bills it, or not known';

UPDATE alembic_version SET version_num='0009' WHERE alembic_version.version_num = '0008';

COMMIT;

BEGIN;

-- Running upgrade 0009 -> 0010

set local lock_timeout = '5s';

ALTER TABLE stripe_prices ADD COLUMN product_default BOOLEAN DEFAULT false NOT NULL;

COMMENT ON COLUMN stripe_prices.product_default IS 'its product''s default price';

insert into refreshes (kind, object_id, reason, due_at)
select 'price', id, 'product-changed', now() from stripe_prices
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at;

UPDATE alembic_version SET version_num='0010' WHERE alembic_version.version_num = '0009';

COMMIT;

BEGIN;

-- Running upgrade 0010 -> 0011

set local lock_timeout = '5s';

CREATE TABLE former_customers (
    stripe_customer_id TEXT NOT NULL, 
    business_id BIGINT NOT NULL, 
    until TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT former_customers_pkey PRIMARY KEY (stripe_customer_id), 
    CONSTRAINT former_customers_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id)
);

COMMENT ON TABLE former_customers IS 'customers that businesses had before the present one: what Stripe tells of them is still theirs';

COMMENT ON COLUMN former_customers.stripe_customer_id IS 'cus_…';

COMMENT ON COLUMN former_customers.until IS 'when another one took its place';

CREATE INDEX former_customers_business_id_idx ON former_customers (business_id);

ALTER TABLE stripe_customers ADD COLUMN balance BIGINT DEFAULT 0 NOT NULL;

COMMENT ON COLUMN stripe_customers.balance IS 'in its currency''s smallest unit; negative: a credit, which lowers its next invoice';

ALTER TABLE stripe_customers ADD COLUMN currency TEXT;

insert into refreshes (kind, object_id, reason, due_at)
select 'price', id, 'tiers-unknown', now() from stripe_prices where tariffs is null
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at;

UPDATE alembic_version SET version_num='0011' WHERE alembic_version.version_num = '0010';

COMMIT;

BEGIN;

-- Running upgrade 0011 -> 0012

set local lock_timeout = '5s';

ALTER TABLE usage_records ADD COLUMN trial BOOLEAN DEFAULT false NOT NULL;

COMMENT ON COLUMN usage_records.trial IS 'of a trial: its included minutes are free, and more are not for sale';

ALTER TABLE usage_records ADD COLUMN invoice_id TEXT;

COMMENT ON COLUMN usage_records.invoice_id IS 'that settled it; null: none did';

ALTER TABLE usage_adjustments ADD COLUMN settlement_record_id BIGINT;

COMMENT ON COLUMN usage_adjustments.settlement_record_id IS 'the record whose settlement made it: the difference to its invoice; null: a call did';

ALTER TABLE usage_adjustments ADD CONSTRAINT usage_adjustments_settlement_record_id_fkey FOREIGN KEY(settlement_record_id) REFERENCES usage_records (id);

CREATE INDEX usage_adjustments_settlement_record_id_idx ON usage_adjustments (settlement_record_id);

CREATE INDEX usage_adjustments_waiting_idx ON usage_adjustments (business_id) WHERE kind = 'waiting';

CREATE INDEX usage_adjustments_disputed_idx ON usage_adjustments (business_id) WHERE kind in ('over-billed', 'under-billed');

ALTER TABLE usage_adjustments DROP CONSTRAINT usage_adjustments_kind_check;

ALTER TABLE usage_adjustments ADD CONSTRAINT usage_adjustments_kind_check CHECK (kind in ('carried', 'written-off', 'unbillable', 'held', 'waiting', 'over-billed', 'under-billed', 'credited'));

update usage_adjustments set settlement_record_id = origin_record_id where call_sid is null;

update usage_records r set trial = true
from subscriptions s where s.id = r.subscription_id and s.trial_end >= r.period_end;

update usage_records r set invoice_id = (
  select i.id from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where l.stripe_subscription_id = s.stripe_id and l.period_end = r.period_end and i.status not in ('draft', 'void')
  order by i.created_at desc, i.id desc limit 1)
from subscriptions s where s.id = r.subscription_id and r.settled_at is not null;

UPDATE alembic_version SET version_num='0012' WHERE alembic_version.version_num = '0011';

COMMIT;

BEGIN;

-- Running upgrade 0012 -> 0013

set local lock_timeout = '5s';

ALTER TABLE businesses ADD COLUMN billed_elsewhere_until TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN businesses.billed_elsewhere_until IS 'until then it is invoiced by hand, and keeps plan and service without a subscription';

ALTER TABLE businesses ADD COLUMN billed_elsewhere_reason TEXT;

COMMENT ON COLUMN businesses.billed_elsewhere_reason IS 'who has agreed to what with it';

ALTER TABLE subscriptions ADD COLUMN minutes_ended_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN subscriptions.minutes_ended_at IS 'when its minutes item was removed, while it lives on';

UPDATE alembic_version SET version_num='0013' WHERE alembic_version.version_num = '0012';

COMMIT;

BEGIN;

-- Running upgrade 0013 -> 0014

set local lock_timeout = '5s';

ALTER TABLE meter_pushes ADD COLUMN accepted_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN meter_pushes.accepted_at IS 'business clock: Stripe''s answer came then; in a draft''s last moment it may be on no invoice';

UPDATE alembic_version SET version_num='0014' WHERE alembic_version.version_num = '0013';

COMMIT;

BEGIN;

-- Running upgrade 0014 -> 0015

set local lock_timeout = '5s';

ALTER TABLE subscriptions ADD COLUMN billing_mode TEXT;

COMMENT ON COLUMN subscriptions.billing_mode IS 'classic or flexible; null: not told yet';

insert into refreshes (kind, object_id, reason, due_at)
select 'subscription', stripe_id, 'billing-mode', now() from subscriptions where ended_at is null
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at;

UPDATE alembic_version SET version_num='0015' WHERE alembic_version.version_num = '0014';

COMMIT;

BEGIN;

-- Running upgrade 0015 -> 0016

set local lock_timeout = '5s';

ALTER TABLE subscription_plans ADD COLUMN retired_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN subscription_plans.retired_at IS 'not for sale since; who has it keeps it';

ALTER TABLE usage_records ADD COLUMN plan_minutes INTEGER;

COMMENT ON COLUMN usage_records.plan_minutes IS 'that its plan included when it was made';

update usage_records r set plan_minutes = p.included_minutes from subscription_plans p where p.id = r.plan_id;

UPDATE alembic_version SET version_num='0016' WHERE alembic_version.version_num = '0015';

COMMIT;

BEGIN;

-- Running upgrade 0016 -> 0017

set local lock_timeout = '5s';

ALTER TABLE stripe_invoices ADD COLUMN total_cents BIGINT;

COMMENT ON COLUMN stripe_invoices.total_cents IS 'of its lines, less discounts, with taxes; null: not told yet';

ALTER TABLE stripe_invoices ADD COLUMN tax_cents BIGINT;

COMMENT ON COLUMN stripe_invoices.tax_cents IS 'that is added to its lines; what they include already is not in it';

ALTER TABLE stripe_invoices ADD COLUMN discount_cents BIGINT;

COMMENT ON COLUMN stripe_invoices.discount_cents IS 'that is taken from its lines';

ALTER TABLE stripe_invoices ADD COLUMN number TEXT;

COMMENT ON COLUMN stripe_invoices.number IS 'as customers know it';

ALTER TABLE stripe_invoices ADD COLUMN charges JSONB;

COMMENT ON COLUMN stripe_invoices.charges IS 'its lines: for what, price, quantity, amount, whether a proration; the first 250';

insert into refreshes (kind, object_id, reason, due_at)
select 'invoice', id, 'invoice-money', now() from stripe_invoices where status <> 'void'
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at;

UPDATE alembic_version SET version_num='0017' WHERE alembic_version.version_num = '0016';

COMMIT;

BEGIN;

-- Running upgrade 0017 -> 0018

set local lock_timeout = '5s';

CREATE TABLE credits (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    business_id BIGINT NOT NULL, 
    subject TEXT NOT NULL, 
    invoice_id TEXT, 
    amount BIGINT NOT NULL, 
    currency TEXT NOT NULL, 
    minutes INTEGER NOT NULL, 
    identifier TEXT NOT NULL, 
    state TEXT DEFAULT 'planned' NOT NULL, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    server_errors INTEGER DEFAULT 0 NOT NULL, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    answer TEXT, 
    reason TEXT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    settled_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT credits_pkey PRIMARY KEY (id), 
    CONSTRAINT credits_amount_check CHECK (amount > 0), 
    CONSTRAINT credits_state_check CHECK (state in ('planned', 'sending', 'done', 'failed')), 
    CONSTRAINT credits_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT credits_identifier_key UNIQUE (identifier)
);

COMMENT ON TABLE credits IS 'outbox: what is given back at Stripe, by a credit note or on a balance; frozen';

COMMENT ON COLUMN credits.subject IS 'of the difference that it settles';

COMMENT ON COLUMN credits.invoice_id IS 'that charged too much; null: none is known';

COMMENT ON COLUMN credits.amount IS 'in the currency''s smallest unit, before discounts and taxes';

COMMENT ON COLUMN credits.minutes IS 'that are given back so; 0: money alone';

COMMENT ON COLUMN credits.identifier IS 'begins the idempotency keys, and stands at Stripe';

COMMENT ON COLUMN credits.attempts IS '429 costs none';

COMMENT ON COLUMN credits.server_errors IS '5xx answers: each makes the next idempotency key a new one';

COMMENT ON COLUMN credits.due_at IS 'not before; while sending, the end of the lease';

COMMENT ON COLUMN credits.reason IS 'what a person said who decided it';

COMMENT ON COLUMN credits.settled_at IS 'machine clock';

CREATE INDEX credits_business_id_idx ON credits (business_id);

CREATE INDEX credits_invoice_id_idx ON credits (invoice_id);

CREATE INDEX credits_due_idx ON credits (due_at) WHERE state in ('planned', 'sending');

create function frozen_credit() returns trigger language plpgsql as $$
begin
  if (new.business_id, new.subject, new.invoice_id, new.amount, new.currency, new.minutes, new.identifier)
     is distinct from
     (old.business_id, old.subject, old.invoice_id, old.amount, old.currency, old.minutes, old.identifier) then
    raise exception using message = 'credit ' || old.identifier || ' is frozen: make a new one instead';
  end if;
  if new.state <> old.state and old.state in ('done', 'failed') then
    raise exception using message = 'credit ' || old.identifier || ' is ' || old.state || ' and stays so';
  end if;
  return new;
end $$;
create trigger frozen before update on credits for each row execute function frozen_credit();;

ALTER TABLE stripe_invoices ADD COLUMN credit_notes JSONB;

COMMENT ON COLUMN stripe_invoices.credit_notes IS 'what was given back of it: id, number, total, the part of its minutes'' lines, whose';

UPDATE alembic_version SET version_num='0018' WHERE alembic_version.version_num = '0017';

COMMIT;

BEGIN;

-- Running upgrade 0018 -> 0019

set local lock_timeout = '5s';

ALTER TABLE refreshes DROP CONSTRAINT refreshes_kind_check;

ALTER TABLE refreshes ADD CONSTRAINT refreshes_kind_check CHECK (kind in ('call', 'customer', 'subscription', 'invoice', 'payment', 'price', 'meter', 'event'));

ALTER TABLE stripe_invoices ADD COLUMN paid_back JSONB;

COMMENT ON COLUMN stripe_invoices.paid_back IS 'refunds that no credit note tells, and what banks hold in disputes: id, what, amount, status';

insert into refreshes (kind, object_id, reason, due_at)
select distinct 'invoice', i.id, 'paid-back', now()
from stripe_invoices i
join drifts d on d.evidence ->> 'invoice' = i.id and d.resolved_at is null and d.kind in ('credit-due', 'over-billed')
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at;

UPDATE alembic_version SET version_num='0019' WHERE alembic_version.version_num = '0018';

COMMIT;

BEGIN;

-- Running upgrade 0019 -> 0020

set local lock_timeout = '5s';

ALTER TABLE usage_adjustments ADD COLUMN told_amount BIGINT;

COMMENT ON COLUMN usage_adjustments.told_amount IS 'in the currency''s smallest unit: what a person was told that it is worth, who had it carried; null: by the tiers of its own period';

UPDATE alembic_version SET version_num='0020' WHERE alembic_version.version_num = '0019';

COMMIT;

BEGIN;

-- Running upgrade 0020 -> 0021

set local lock_timeout = '5s';

ALTER TABLE claims ADD COLUMN server_started_at TIMESTAMP WITH TIME ZONE DEFAULT pg_postmaster_start_time() NOT NULL;

COMMENT ON COLUMN claims.server_started_at IS 'by which server it was written: one that has restarted since took the worker''s locks itself';

ALTER TABLE webhook_events ADD COLUMN lone_deaths SMALLINT DEFAULT 0 NOT NULL;

COMMENT ON COLUMN webhook_events.lone_deaths IS 'of workers that had nothing but this row';

CREATE TABLE halts (
    work TEXT NOT NULL, 
    error TEXT NOT NULL, 
    since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    next_try_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT halts_pkey PRIMARY KEY (work)
);

COMMENT ON TABLE halts IS 'work that has stopped since everything failed alike; it goes on by itself';

COMMENT ON COLUMN halts.work IS 'that has stopped: drain, close, close-looks, pushes, service, plans';

COMMENT ON COLUMN halts.error IS 'in which everything failed, without its values';

COMMENT ON COLUMN halts.next_try_at IS 'when one more is tried: if it passes, the row goes';

UPDATE alembic_version SET version_num='0021' WHERE alembic_version.version_num = '0020';

COMMIT;

BEGIN;

-- Running upgrade 0021 -> 0022

set local lock_timeout = '5s';

UPDATE alembic_version SET version_num='0022' WHERE alembic_version.version_num = '0021';

COMMIT;

BEGIN;

-- Running upgrade 0022 -> 0023

CREATE TABLE resent_events (
    event_id BIGINT NOT NULL, 
    resent_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT resent_events_pkey PRIMARY KEY (event_id)
);

COMMENT ON TABLE resent_events IS 'dead events that their sender has sent again since: a wish to have them applied, until one looks';

COMMENT ON COLUMN resent_events.event_id IS 'no foreign key: its check would wait for who works on the event';

UPDATE alembic_version SET version_num='0023' WHERE alembic_version.version_num = '0022';

COMMIT;

BEGIN;

-- Running upgrade 0023 -> 0024

CREATE TABLE schema_serves (
    one BOOLEAN DEFAULT true NOT NULL, 
    oldest_code TEXT NOT NULL, 
    CONSTRAINT schema_serves_pkey PRIMARY KEY (one), 
    CONSTRAINT schema_serves_one_check CHECK (one)
);

COMMENT ON TABLE schema_serves IS 'one row: which code these tables serve; written by each migration (db/schema_version.py)';

COMMENT ON COLUMN schema_serves.oldest_code IS 'the newest migration that the oldest such code comes with';

INSERT INTO schema_serves (oldest_code) VALUES ('0022');

UPDATE alembic_version SET version_num='0024' WHERE alembic_version.version_num = '0023';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0024 -> 0025

CREATE TABLE audit_entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    who TEXT NOT NULL, 
    what TEXT NOT NULL, 
    subject TEXT NOT NULL, 
    business_id BIGINT, 
    reason TEXT, 
    fields TEXT[] DEFAULT '{}' NOT NULL, 
    detail JSONB DEFAULT '{}' NOT NULL, 
    CONSTRAINT audit_entries_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE audit_entries IS 'who decided what, when and why; rows are added and never changed, a trigger sees to it';

COMMENT ON COLUMN audit_entries.who IS 'user@host of a command, or pipeline, or stripe';

COMMENT ON COLUMN audit_entries.what IS 'the command, or the decision in a few words';

COMMENT ON COLUMN audit_entries.subject IS 'what it is about, as business:12, plan:starter, record:7';

COMMENT ON COLUMN audit_entries.business_id IS 'whose it is; no foreign key, since an entry outlives everything';

COMMENT ON COLUMN audit_entries.fields IS 'names of what was changed, without values';

COMMENT ON COLUMN audit_entries.detail IS 'ids and figures, nothing personal';

CREATE INDEX audit_entries_business_id_idx ON audit_entries (business_id, id);

create function audit_entry_stays() returns trigger language plpgsql as $$
begin
  raise exception 'an audit entry stays as it is: add another one';
end
$$;

create trigger audit_entry_stays before update or delete on audit_entries for each row execute function audit_entry_stays();

UPDATE alembic_version SET version_num='0025' WHERE alembic_version.version_num = '0024';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0025 -> 0026

CREATE TABLE database_identity (
    one BOOLEAN DEFAULT true NOT NULL, 
    identity TEXT NOT NULL, 
    CONSTRAINT database_identity_pkey PRIMARY KEY (one), 
    CONSTRAINT database_identity_one_check CHECK (one)
);

COMMENT ON TABLE database_identity IS 'one row: which database these rows were written in (pipeline/shared/restores.py)';

COMMENT ON COLUMN database_identity.identity IS 'PostgreSQL''s own number of its cluster, and of meter_pushes in it: a restored dump has others';

insert into database_identity (identity) select system_identifier || ':' || 'meter_pushes'::regclass::oid from pg_control_system();

COMMENT ON COLUMN halts.work IS 'drain, close, close-looks, pushes, service, plans; restored: all but the drain, and sending';

UPDATE alembic_version SET version_num='0026' WHERE alembic_version.version_num = '0025';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0026 -> 0027

CREATE TABLE attempt_limits (
    bucket BYTEA NOT NULL, 
    full_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT attempt_limits_pkey PRIMARY KEY (bucket)
);

COMMENT ON TABLE attempt_limits IS 'how often something was tried: one instant a bucket (GCRA), named by a digest';

COMMENT ON COLUMN attempt_limits.full_at IS 'when all that was used up is there again';

CREATE INDEX attempt_limits_full_at_idx ON attempt_limits (full_at);

CREATE TABLE known_devices (
    token_sha256 BYTEA NOT NULL, 
    user_id BIGINT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT known_devices_pkey PRIMARY KEY (token_sha256), 
    CONSTRAINT known_devices_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE known_devices IS 'browsers from which somebody has signed in: no stranger can lock them out';

CREATE INDEX known_devices_user_id_idx ON known_devices (user_id);

CREATE TABLE recovery_codes (
    user_id BIGINT NOT NULL, 
    code_sha256 BYTEA NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    used_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT recovery_codes_pkey PRIMARY KEY (user_id, code_sha256), 
    CONSTRAINT recovery_codes_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE recovery_codes IS 'for who has lost the second factor: each works once';

CREATE TABLE sessions (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    user_id BIGINT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    used_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    proven_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    second_factor BOOLEAN NOT NULL, 
    idle_seconds INTEGER NOT NULL, 
    ends_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    device TEXT NOT NULL, 
    address TEXT NOT NULL, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    ended_by TEXT, 
    CONSTRAINT sessions_pkey PRIMARY KEY (id), 
    CONSTRAINT sessions_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE sessions IS 'who is signed in, on which device; all its refresh tokens are one family';

COMMENT ON COLUMN sessions.proven_at IS 'when password and code were last given';

COMMENT ON COLUMN sessions.second_factor IS 'whether a code was given with the password';

COMMENT ON COLUMN sessions.idle_seconds IS 'it ends when it was not used for so long';

COMMENT ON COLUMN sessions.ends_at IS 'at the latest';

COMMENT ON COLUMN sessions.device IS 'what the browser says it is, for the person to recognise';

COMMENT ON COLUMN sessions.address IS 'the network address it began from';

COMMENT ON COLUMN sessions.ended_by IS 'sign-out, reuse, password, address, deactivated, staff';

CREATE INDEX sessions_user_id_idx ON sessions (user_id) WHERE ended_at is null;

CREATE TABLE account_links (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    kind TEXT NOT NULL, 
    email TEXT NOT NULL, 
    user_id BIGINT, 
    former_email TEXT, 
    business_id BIGINT, 
    role TEXT, 
    staff_role TEXT, 
    invited_by BIGINT, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    ended_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT account_links_pkey PRIMARY KEY (id), 
    CONSTRAINT account_links_kind_check CHECK (kind in ('sign-up', 'invitation', 'staff', 'reset', 'address', 'ownership')), 
    CONSTRAINT account_links_role_check CHECK (role in ('admin', 'member', 'billing')), 
    CONSTRAINT account_links_staff_role_check CHECK (staff_role in ('support', 'operator', 'administrator')), 
    CONSTRAINT account_links_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT account_links_invited_by_fkey FOREIGN KEY(invited_by) REFERENCES users (id), 
    CONSTRAINT account_links_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE account_links IS 'what somebody with this address may do by a link that was mailed there, once';

COMMENT ON COLUMN account_links.email IS 'where it is mailed, and whose it is';

COMMENT ON COLUMN account_links.user_id IS 'whose password or address it changes';

COMMENT ON COLUMN account_links.former_email IS 'the address before the change, which is told of it';

COMMENT ON COLUMN account_links.role IS 'that an invitation gives; owner''s is the kind ownership';

COMMENT ON COLUMN account_links.ended_at IS 'used, or taken back, or replaced by a newer one';

CREATE INDEX account_links_business_id_idx ON account_links (business_id) WHERE ended_at is null;

CREATE INDEX account_links_invited_by_idx ON account_links (invited_by);

CREATE INDEX account_links_user_id_idx ON account_links (user_id);

CREATE TABLE refresh_tokens (
    token_sha256 BYTEA NOT NULL, 
    session_id BIGINT NOT NULL, 
    number INTEGER NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    used_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT refresh_tokens_pkey PRIMARY KEY (token_sha256), 
    CONSTRAINT refresh_tokens_token_sha256_check CHECK (octet_length(token_sha256) = 32), 
    CONSTRAINT refresh_tokens_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id), 
    CONSTRAINT refresh_tokens_session_id_number_key UNIQUE (session_id, number)
);

COMMENT ON TABLE refresh_tokens IS 'the chain of a session''s tokens: each is made of the one before, and known by its digest';

COMMENT ON COLUMN refresh_tokens.number IS 'in its session, from 1';

COMMENT ON COLUMN refresh_tokens.used_at IS 'first used; from then on the one before is good for 10 s';

CREATE TABLE link_tokens (
    token_sha256 BYTEA NOT NULL, 
    link_id BIGINT NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT link_tokens_pkey PRIMARY KEY (token_sha256), 
    CONSTRAINT link_tokens_token_sha256_check CHECK (octet_length(token_sha256) = 32), 
    CONSTRAINT link_tokens_link_id_fkey FOREIGN KEY(link_id) REFERENCES account_links (id)
);

COMMENT ON TABLE link_tokens IS 'the secrets of links: each mail that may have left has its own, and any of them is good';

CREATE INDEX link_tokens_link_id_idx ON link_tokens (link_id);

CREATE TABLE mails (
    id BIGINT GENERATED ALWAYS AS IDENTITY, 
    kind TEXT NOT NULL, 
    link_id BIGINT, 
    user_id BIGINT, 
    business_id BIGINT, 
    state TEXT DEFAULT 'planned' NOT NULL, 
    attempts INTEGER DEFAULT 0 NOT NULL, 
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    settled_at TIMESTAMP WITH TIME ZONE, 
    answer TEXT, 
    CONSTRAINT mails_pkey PRIMARY KEY (id), 
    CONSTRAINT mails_state_check CHECK (state in ('planned', 'sending', 'sent', 'failed', 'void')), 
    CONSTRAINT mails_recipient_check CHECK (link_id is not null or user_id is not null), 
    CONSTRAINT mails_business_id_fkey FOREIGN KEY(business_id) REFERENCES businesses (id), 
    CONSTRAINT mails_link_id_fkey FOREIGN KEY(link_id) REFERENCES account_links (id), 
    CONSTRAINT mails_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id)
);

COMMENT ON TABLE mails IS 'outbox of mails: kinds and ids; texts and secrets are made when they are sent';

COMMENT ON COLUMN mails.answer IS 'the mail server''s number, without its words';

CREATE INDEX mails_due_idx ON mails (due_at) WHERE state in ('planned', 'sending');

CREATE INDEX mails_link_id_idx ON mails (link_id);

CREATE INDEX mails_user_id_idx ON mails (user_id);

ALTER TABLE api_keys ADD COLUMN user_id BIGINT;

COMMENT ON COLUMN api_keys.user_id IS 'who made it; it may do no more than its maker';

ALTER TABLE api_keys ADD COLUMN scopes TEXT[] DEFAULT '{}' NOT NULL;

ALTER TABLE api_keys ADD COLUMN last_used_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN api_keys.last_used_at IS 'to the minute, written now and then';

ALTER TABLE api_keys ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE;

ALTER TABLE api_keys ADD COLUMN shrunk_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN api_keys.shrunk_at IS 'when its maker lost a right that it has; it ends seven days later unless somebody rotates it';

ALTER TABLE api_keys ALTER COLUMN business_id DROP NOT NULL;

COMMENT ON COLUMN api_keys.business_id IS 'null: a service key, for all of them';

ALTER TABLE api_keys ADD CONSTRAINT api_keys_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id);

COMMENT ON TABLE api_keys IS 'keys of programs; only the digest of the secret is stored';

ALTER TABLE audit_entries ADD COLUMN by_right TEXT;

COMMENT ON COLUMN audit_entries.by_right IS 'the right that it was done by, as members:write';

ALTER TABLE audit_entries ADD COLUMN request_id TEXT;

COMMENT ON COLUMN audit_entries.request_id IS 'of the API, to find it in the logs';

ALTER TABLE users ADD COLUMN password_hash TEXT;

COMMENT ON COLUMN users.password_hash IS 'argon2id, with its own parameters';

ALTER TABLE users ADD COLUMN staff_role TEXT;

COMMENT ON COLUMN users.staff_role IS 'of Altiora''s own people';

ALTER TABLE users ADD COLUMN totp_secret BYTEA;

COMMENT ON COLUMN users.totp_secret IS 'of the second factor, encrypted';

ALTER TABLE users ADD COLUMN totp_offered BYTEA;

COMMENT ON COLUMN users.totp_offered IS 'one that waits for its first code, encrypted';

ALTER TABLE users ADD COLUMN totp_step BIGINT;

COMMENT ON COLUMN users.totp_step IS 'the last half minute whose code was used: no code is taken twice';

ALTER TABLE users ADD COLUMN deactivated_at TIMESTAMP WITH TIME ZONE;

COMMENT ON TABLE users IS 'people who sign in, each with an address that was proven; they own businesses or are members';

ALTER TABLE users ADD CONSTRAINT users_name_check CHECK (length(name) between 1 and 200);

ALTER TABLE users ADD CONSTRAINT users_staff_role_check CHECK (staff_role in ('support', 'operator', 'administrator'));

UPDATE alembic_version SET version_num='0027' WHERE alembic_version.version_num = '0026';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0027 -> 0028

CREATE TABLE idempotency_keys (
    actor TEXT NOT NULL, 
    path TEXT NOT NULL, 
    key TEXT NOT NULL, 
    body_sha256 BYTEA NOT NULL, 
    status INTEGER NOT NULL, 
    answer BYTEA, 
    location TEXT, 
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL, 
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (actor, path, key), 
    CONSTRAINT idempotency_keys_body_sha256_check CHECK (octet_length(body_sha256) = 32)
);

COMMENT ON TABLE idempotency_keys IS 'requests of the API that may be sent again: what was answered, for a day';

COMMENT ON COLUMN idempotency_keys.actor IS 'user:7 or key:3';

COMMENT ON COLUMN idempotency_keys.path IS 'of the request, with the business in it';

COMMENT ON COLUMN idempotency_keys.answer IS 'null where it held a secret';

CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

UPDATE alembic_version SET version_num='0028' WHERE alembic_version.version_num = '0027';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0028 -> 0029

ALTER TABLE ai_agents ADD CONSTRAINT ai_agents_id_business_id_key UNIQUE (id, business_id);

ALTER TABLE agent_knowledge ADD COLUMN business_id BIGINT;

update agent_knowledge c set business_id = a.business_id from ai_agents a where a.id = c.agent_id;

ALTER TABLE agent_knowledge ALTER COLUMN business_id SET NOT NULL;

CREATE INDEX agent_knowledge_business_id_idx ON agent_knowledge (business_id);

ALTER TABLE agent_knowledge DROP CONSTRAINT agent_knowledge_agent_id_fkey;

ALTER TABLE agent_knowledge ADD CONSTRAINT agent_knowledge_agent_id_fkey FOREIGN KEY(agent_id, business_id) REFERENCES ai_agents (id, business_id);

ALTER TABLE agent_scripts ADD COLUMN business_id BIGINT;

update agent_scripts c set business_id = a.business_id from ai_agents a where a.id = c.agent_id;

ALTER TABLE agent_scripts ALTER COLUMN business_id SET NOT NULL;

CREATE INDEX agent_scripts_business_id_idx ON agent_scripts (business_id);

ALTER TABLE agent_scripts DROP CONSTRAINT agent_scripts_agent_id_fkey;

ALTER TABLE agent_scripts ADD CONSTRAINT agent_scripts_agent_id_fkey FOREIGN KEY(agent_id, business_id) REFERENCES ai_agents (id, business_id);

update phone_numbers set agent_id = null where business_id is null;

ALTER TABLE phone_numbers ADD CONSTRAINT phone_numbers_agent_check CHECK (agent_id is null or business_id is not null);

ALTER TABLE phone_numbers DROP CONSTRAINT phone_numbers_agent_id_fkey;

ALTER TABLE phone_numbers ADD CONSTRAINT phone_numbers_agent_id_fkey FOREIGN KEY(agent_id, business_id) REFERENCES ai_agents (id, business_id);

ALTER TABLE users ADD COLUMN second_factor BOOLEAN GENERATED ALWAYS AS (totp_secret is not null) STORED NOT NULL;

UPDATE alembic_version SET version_num='0029' WHERE alembic_version.version_num = '0028';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0029 -> 0030

COMMIT;

DROP INDEX CONCURRENTLY IF EXISTS users_address_key;

CREATE UNIQUE INDEX CONCURRENTLY users_address_key ON users (lower(email collate "C"));

BEGIN;

ALTER TABLE users ADD COLUMN secured_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN users.secured_at IS 'password, address or second factor changed: links that were asked for before are good no more';

DROP INDEX users_email_key;

alter index users_address_key rename to users_email_key;

COMMENT ON COLUMN sessions.ended_by IS 'sign-out, reuse, password, address, second-factor, deactivated, staff';

ALTER TABLE account_links ADD CONSTRAINT account_links_business_check CHECK ((kind in ('invitation', 'ownership')) = (business_id is not null));

UPDATE alembic_version SET version_num='0030' WHERE alembic_version.version_num = '0029';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0030 -> 0031

ALTER TABLE ai_agents ADD COLUMN personality TEXT DEFAULT '' NOT NULL;

ALTER TABLE ai_agents ADD COLUMN voice TEXT DEFAULT '' NOT NULL;

ALTER TABLE ai_agents ADD COLUMN prompt TEXT DEFAULT '' NOT NULL;

ALTER TABLE ai_agents ADD COLUMN greeting TEXT DEFAULT '' NOT NULL;

ALTER TABLE ai_agents ADD COLUMN settings JSONB DEFAULT '{}' NOT NULL;

COMMENT ON COLUMN ai_agents.settings IS 'what the phone platform wants to know beside';

ALTER TABLE agent_knowledge RENAME title TO question;

ALTER TABLE agent_knowledge RENAME content TO answer;

ALTER TABLE agent_scripts ADD COLUMN flow JSONB;

COMMENT ON COLUMN agent_scripts.flow IS 'a call flow: the first of its steps is said first (pipeline/agents/call_flow.py)';

update agent_scripts set flow = jsonb_build_object('steps', jsonb_build_array(
      jsonb_build_object('id', 'all', 'say', body)));

ALTER TABLE agent_scripts ALTER COLUMN flow SET NOT NULL;

ALTER TABLE agent_scripts DROP COLUMN body;

ALTER TABLE agent_scripts ADD COLUMN ended_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN agent_scripts.ended_at IS 'nothing is said by it from then on';

UPDATE alembic_version SET version_num='0031' WHERE alembic_version.version_num = '0030';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0031 -> 0032

COMMIT;

DROP INDEX CONCURRENTLY IF EXISTS calls_business_id_started_at_idx;

CREATE INDEX CONCURRENTLY calls_business_id_started_at_idx ON calls (business_id, started_at desc);

BEGIN;

ALTER TABLE phone_numbers ADD COLUMN label TEXT DEFAULT '' NOT NULL;

ALTER TABLE phone_number_assignments ADD COLUMN agent_id BIGINT;

COMMENT ON COLUMN phone_number_assignments.agent_id IS 'who answered it meanwhile';

alter table phone_number_assignments add constraint phone_number_assignments_agent_id_fkey foreign key (agent_id, business_id) references ai_agents (id, business_id) not valid;

ALTER TABLE calls ADD COLUMN agent_id BIGINT;

COMMENT ON COLUMN calls.agent_id IS 'who answered: the agent of the number when the call began';

alter table calls add constraint calls_agent_id_fkey foreign key (agent_id, business_id) references ai_agents (id, business_id) not valid;

update phone_number_assignments a set agent_id = n.agent_id from phone_numbers n where n.number = a.number and n.business_id = a.business_id and upper(a.held) is null;

alter table phone_number_assignments validate constraint phone_number_assignments_agent_id_fkey;

alter table calls validate constraint calls_agent_id_fkey;

alter table calls add constraint calls_agent_check check (agent_id is null or business_id is not null) not valid;

alter table calls validate constraint calls_agent_check;

UPDATE alembic_version SET version_num='0032' WHERE alembic_version.version_num = '0031';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0032 -> 0033

ALTER TABLE call_transcripts ADD COLUMN position INTEGER;

COMMENT ON COLUMN call_transcripts.position IS '0 is said first';

ALTER TABLE call_transcripts ADD COLUMN speaker TEXT DEFAULT 'agent' NOT NULL;

ALTER TABLE call_transcripts ADD COLUMN said_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN call_transcripts.said_at IS 'by the phone platform''s clock';

ALTER TABLE call_transcripts ADD COLUMN redacted_at TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN call_transcripts.redacted_at IS 'its content was taken out, for good';

update call_transcripts t set position = n.place
    from (select id, row_number() over (partition by call_sid order by id) - 1 as place from call_transcripts) n
    where n.id = t.id;

ALTER TABLE call_transcripts ALTER COLUMN position SET NOT NULL;

ALTER TABLE call_transcripts ALTER COLUMN speaker DROP DEFAULT;

ALTER TABLE call_transcripts ADD CONSTRAINT call_transcripts_call_sid_position_key UNIQUE (call_sid, position);

DROP INDEX call_transcripts_call_sid_idx;

ALTER TABLE call_transcripts ADD CONSTRAINT call_transcripts_speaker_check CHECK (speaker in ('agent', 'caller'));

ALTER TABLE call_transcripts ADD CONSTRAINT call_transcripts_position_check CHECK (position >= 0);

UPDATE alembic_version SET version_num='0033' WHERE alembic_version.version_num = '0032';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

BEGIN;

-- Running upgrade 0033 -> 0034

ALTER TABLE phone_numbers ADD COLUMN free_from TIMESTAMP WITH TIME ZONE;

COMMENT ON COLUMN phone_numbers.free_from IS 'business clock: its last holder let it go thirty days before; null: nobody did';

update phone_numbers n set free_from = last.until + interval '30 days'
    from (select number, max(upper(held)) as until from phone_number_assignments group by number) last
    where last.number = n.number and n.business_id is null;

ALTER TABLE businesses ADD COLUMN contact_email TEXT;

COMMENT ON COLUMN businesses.contact_email IS 'whom we write to about it, beside its owner';

ALTER TABLE usage_records ADD COLUMN time_zone TEXT;

COMMENT ON COLUMN usage_records.time_zone IS 'its days are local to it; null: to its business''s, as ever';

UPDATE alembic_version SET version_num='0034' WHERE alembic_version.version_num = '0033';

UPDATE schema_serves SET oldest_code='0022';

COMMIT;

