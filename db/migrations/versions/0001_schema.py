"""schema

The whole first schema with its four plans. Deploy: before the code, into an empty database.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Those of its time, so that a new database and an old one come to the same: later ones are added by the seed.
PLANS = """
insert into subscription_plans (id, code, name, price_cents, included_minutes, agents, numbers, bills_overage)
values (1, 'free', 'Free', 0, 50, 1, 1, false),
       (2, 'starter', 'Starter', 4900, 500, 3, 2, true),
       (3, 'professional', 'Professional', 14900, 2000, 10, 5, true),
       (4, 'enterprise', 'Enterprise', 49900, 10000, 50, 20, true)
"""

# A push that Stripe may have seen must be the same whenever it is looked at again: promise 6.
FREEZE_PUSHES = """
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
create trigger frozen before update on meter_pushes for each row execute function frozen_push();
"""
FREEZE_CHANGES = """
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
create trigger frozen before update on subscription_changes for each row execute function frozen_change();
"""


def upgrade() -> None:
    op.execute("create extension if not exists btree_gist")
    op.execute("create sequence refresh_marks")
    op.create_table(
        "claims",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False, comment="host:pid"),
        sa.Column("event_ids", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("claimed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("claims_pkey")),
        comment="trace of a claim, committed before its effect and deleted with it; one that is left while its rows are pending and unlocked tells of a worker that died",
    )
    op.create_table(
        "listings",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("listed_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("listed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("listings_pkey")),
        comment="up to when a source has been listed in full",
    )
    op.create_table(
        "refreshes",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("mark", sa.BigInteger(), server_default=sa.text("nextval('refresh_marks')"), nullable=False),
        sa.Column(
            "fetched_mark",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="the mark that stood before the last fetch; 0: never fetched",
        ),
        sa.Column(
            "attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="since the last success"
        ),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("marked_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind in ('call', 'customer', 'subscription', 'invoice', 'price', 'event')",
            name=op.f("refreshes_kind_check"),
        ),
        sa.PrimaryKeyConstraint("kind", "object_id", name=op.f("refreshes_pkey")),
        comment="objects to fetch from their owner: what we know of them is stale, or was never known",
    )
    op.create_index(
        "refreshes_due_idx", "refreshes", ["due_at"], unique=False, postgresql_where=sa.text("mark > fetched_mark")
    )
    op.create_table(
        "stripe_customers",
        sa.Column("id", sa.Text(), nullable=False, comment="cus_…"),
        sa.Column("named_business_id", sa.BigInteger(), nullable=True, comment="metadata.business_id, unchecked"),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("snapshot_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("stripe_customers_pkey")),
        comment="mirror of customers: which business one names in its metadata, and whether it lives",
    )
    op.create_table(
        "subscription_plans",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("code", sa.Text(), nullable=False, comment="free, starter, professional, enterprise"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price_cents", sa.Integer(), nullable=False, comment="a month, in cents of the business's currency"),
        sa.Column("included_minutes", sa.Integer(), nullable=False, comment="a billing period"),
        sa.Column("agents", sa.Integer(), nullable=False),
        sa.Column("numbers", sa.Integer(), nullable=False),
        sa.Column(
            "increment_seconds",
            sa.Integer(),
            server_default=sa.text("60"),
            nullable=False,
            comment="seconds are rounded up to it, then to whole minutes",
        ),
        sa.Column(
            "bills_overage",
            sa.Boolean(),
            nullable=False,
            comment="true: Stripe's graduated price bills it; false: it is unbilled and the business is limited",
        ),
        sa.CheckConstraint(
            "increment_seconds between 1 and 3600", name=op.f("subscription_plans_increment_seconds_check")
        ),
        sa.CheckConstraint(
            "price_cents >= 0 and included_minutes >= 0 and agents >= 0 and numbers >= 0",
            name=op.f("subscription_plans_figures_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("subscription_plans_pkey")),
        sa.UniqueConstraint("code", name=op.f("subscription_plans_code_key")),
        sa.UniqueConstraint("name", name=op.f("subscription_plans_name_key")),
        comment="the plans; seeded, idempotently",
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
        comment="people who sign in; they own businesses or are members of them",
    )
    op.create_index("users_email_key", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column(
            "key",
            sa.Text(collation="C"),
            nullable=False,
            comment="unique for the provider; begins with the CallSid or is the event id",
        ),
        sa.Column("type", sa.Text(), nullable=True, comment="Stripe's event type, or call.<status>"),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "batch_limit",
            sa.Integer(),
            nullable=True,
            comment="set when a batch with this row died: it is tried again only with so many others",
        ),
        sa.Column(
            "due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="not before"
        ),
        sa.Column("received_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="business clock"),
        sa.Column("stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "processed_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="machine clock, when it left pending"
        ),
        sa.Column(
            "recovered",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="found by asking the provider, not sent by it",
        ),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="raw, as signed"),
        sa.CheckConstraint("provider in ('stripe', 'twilio')", name=op.f("webhook_events_provider_check")),
        sa.CheckConstraint(
            "state in ('pending', 'processed', 'ignored', 'dead')", name=op.f("webhook_events_state_check")
        ),
        sa.CheckConstraint(
            "state not in ('ignored', 'dead') or reason is not null", name=op.f("webhook_events_reason_check")
        ),
        sa.CheckConstraint("batch_limit > 0", name=op.f("webhook_events_batch_limit_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("webhook_events_pkey")),
        sa.UniqueConstraint("provider", "key", name=op.f("webhook_events_provider_key_key")),
        comment="the queue of record: a 2xx means that the row is here",
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
    )
    op.create_index(
        "webhook_events_dead_idx", "webhook_events", ["id"], unique=False, postgresql_where=sa.text("state = 'dead'")
    )
    op.create_index(
        "webhook_events_due_idx",
        "webhook_events",
        ["due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "webhook_events_received_at_idx", "webhook_events", ["received_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "businesses",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=True, comment="null until its owner has signed up"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "time_zone",
            sa.Text(),
            nullable=False,
            comment="IANA name; a calendar month without a subscription is local to it",
        ),
        sa.Column("plan_id", sa.SmallInteger(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column(
            "limited_until",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="service status limited while this lies in the future; it passes by itself",
        ),
        sa.Column(
            "suspended_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="service status suspended while set"
        ),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("length(name) between 1 and 200", name=op.f("businesses_name_check")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("businesses_owner_id_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["subscription_plans.id"], name=op.f("businesses_plan_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("businesses_pkey")),
        sa.UniqueConstraint("stripe_customer_id", name=op.f("businesses_stripe_customer_id_key")),
        comment="the tenant: has one plan at a time; ended, never deleted",
    )
    op.create_index(op.f("businesses_owner_id_idx"), "businesses", ["owner_id"], unique=False)
    op.create_table(
        "stripe_prices",
        sa.Column("id", sa.Text(), nullable=False, comment="price_…"),
        sa.Column("product_id", sa.Text(), nullable=True),
        sa.Column("plan_id", sa.SmallInteger(), nullable=True),
        sa.Column("usage_type", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("snapshot_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="when Stripe said so"),
        sa.CheckConstraint("usage_type in ('licensed', 'metered')", name=op.f("stripe_prices_usage_type_check")),
        sa.ForeignKeyConstraint(["plan_id"], ["subscription_plans.id"], name=op.f("stripe_prices_plan_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("stripe_prices_pkey")),
        comment="mirror of the prices seen; plan_id is null while no plan has claimed one (drift unmapped-price)",
    )
    op.create_index(op.f("stripe_prices_product_id_idx"), "stripe_prices", ["product_id"], unique=False)
    op.create_table(
        "ai_agents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), server_default=sa.text("'en'"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("ai_agents_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("ai_agents_pkey")),
        comment="an agent that answers a business's calls; counted against the plan until it ends",
    )
    op.create_index(op.f("ai_agents_business_id_idx"), "ai_agents", ["business_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="the first characters, to recognise it by"),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("octet_length(secret_sha256) = 32", name=op.f("api_keys_secret_sha256_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("api_keys_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("secret_sha256", name=op.f("api_keys_secret_sha256_key")),
        comment="keys of a business's programs; only the digest of the secret is stored",
    )
    op.create_index(op.f("api_keys_business_id_idx"), "api_keys", ["business_id"], unique=False)
    op.create_table(
        "business_members",
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.Text(), server_default=sa.text("'member'"), nullable=False),
        sa.Column("joined_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role in ('admin', 'member', 'billing')", name=op.f("business_members_role_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("business_members_business_id_fkey")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("business_members_user_id_fkey")),
        sa.PrimaryKeyConstraint("business_id", "user_id", name=op.f("business_members_pkey")),
        comment="links users to businesses that they work in",
    )
    op.create_index(op.f("business_members_user_id_idx"), "business_members", ["user_id"], unique=False)
    op.create_table(
        "drifts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="what it is about, as price:price_… or record:12"),
        sa.Column("business_id", sa.BigInteger(), nullable=True),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("actual", sa.Text(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("found_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("drifts_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("drifts_pkey")),
        comment="a difference found: what was expected, what is; open until it is resolved",
    )
    op.create_index(op.f("drifts_business_id_idx"), "drifts", ["business_id"], unique=False)
    op.create_index(
        "drifts_open_key", "drifts", ["kind", "subject"], unique=True, postgresql_where=sa.text("resolved_at is null")
    )
    op.create_table(
        "stripe_invoices",
        sa.Column("id", sa.Text(), nullable=False, comment="in_…"),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("billing_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("automatically_finalizes_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metered_period_start", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metered_period_end", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "metered_quantity",
            sa.Integer(),
            nullable=True,
            comment="minutes on the invoice; final once it is not a draft",
        ),
        sa.Column("amount_due_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("snapshot_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status in ('draft', 'open', 'paid', 'uncollectible', 'void')", name=op.f("stripe_invoices_status_check")
        ),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("stripe_invoices_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("stripe_invoices_pkey")),
        comment="mirror of subscription invoices; a period is billable while its invoice is a draft",
    )
    op.create_index(op.f("stripe_invoices_business_id_idx"), "stripe_invoices", ["business_id"], unique=False)
    op.create_index(
        "stripe_invoices_subscription_period_idx",
        "stripe_invoices",
        ["stripe_subscription_id", "metered_period_end"],
        unique=False,
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False, comment="sub_…"),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "plan_id", sa.SmallInteger(), nullable=True, comment="by its prices; null while none of them is mapped"
        ),
        sa.Column("metered_item_id", sa.Text(), nullable=True),
        sa.Column("metered_price_id", sa.Text(), nullable=True),
        sa.Column(
            "period_start", sa.TIMESTAMP(timezone=True), nullable=True, comment="of the metered item where there is one"
        ),
        sa.Column("period_end", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("billing_cycle_anchor", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("trial_end", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_at_period_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("canceled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("pause_collection", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("price_ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="of all items"),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column(
            "snapshot_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="when Stripe said so; only strictly newer ones replace it",
        ),
        sa.CheckConstraint("period_start < period_end", name=op.f("subscriptions_period_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("subscriptions_business_id_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["subscription_plans.id"], name=op.f("subscriptions_plan_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("subscriptions_pkey")),
        sa.UniqueConstraint("stripe_id", name=op.f("subscriptions_stripe_id_key")),
        comment="mirror of Stripe's subscriptions; status is Stripe's own word",
    )
    op.create_index("subscriptions_business_id_idx", "subscriptions", ["business_id"], unique=False)
    op.create_table(
        "agent_knowledge",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["ai_agents.id"], name=op.f("agent_knowledge_agent_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("agent_knowledge_pkey")),
        comment="what an agent knows about its business",
    )
    op.create_index(op.f("agent_knowledge_agent_id_idx"), "agent_knowledge", ["agent_id"], unique=False)
    op.create_table(
        "agent_scripts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("agent_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("agent_scripts_version_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["ai_agents.id"], name=op.f("agent_scripts_agent_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("agent_scripts_pkey")),
        sa.UniqueConstraint("agent_id", "name", "version", name=op.f("agent_scripts_agent_id_name_version_key")),
        comment="what an agent says, by version",
    )
    op.create_table(
        "phone_numbers",
        sa.Column("number", sa.Text(), nullable=False, comment="E.164"),
        sa.Column("business_id", sa.BigInteger(), nullable=True),
        sa.Column("agent_id", sa.BigInteger(), nullable=True),
        sa.Column("twilio_sid", sa.Text(), nullable=True),
        sa.CheckConstraint("number ~ '^\\+[1-9][0-9]{1,14}$'", name=op.f("phone_numbers_e164_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["ai_agents.id"], name=op.f("phone_numbers_agent_id_fkey")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("phone_numbers_business_id_fkey")),
        sa.PrimaryKeyConstraint("number", name=op.f("phone_numbers_pkey")),
        sa.UniqueConstraint("twilio_sid", name=op.f("phone_numbers_twilio_sid_key")),
        comment="a Twilio number and its present holder",
    )
    op.create_index(op.f("phone_numbers_agent_id_idx"), "phone_numbers", ["agent_id"], unique=False)
    op.create_index(op.f("phone_numbers_business_id_idx"), "phone_numbers", ["business_id"], unique=False)
    op.create_table(
        "subscription_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="the body for Stripe"),
        sa.Column("identifier", sa.Text(), nullable=False, comment="begins the idempotency keys"),
        sa.Column("state", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="429 costs none"),
        sa.Column(
            "server_errors",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="5xx answers: each makes the next idempotency key a new one",
        ),
        sa.Column(
            "due_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="not before; while sending, the end of the lease",
        ),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False, comment="who or what wanted it"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="machine clock"),
        sa.CheckConstraint(
            "kind in ('cancel-at-period-end', 'keep', 'pause-collection', 'resume-collection')",
            name=op.f("subscription_changes_kind_check"),
        ),
        sa.CheckConstraint(
            "state in ('planned', 'sending', 'done', 'failed')", name=op.f("subscription_changes_state_check")
        ),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("subscription_changes_business_id_fkey")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("subscription_changes_subscription_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("subscription_changes_pkey")),
        sa.UniqueConstraint("identifier", name=op.f("subscription_changes_identifier_key")),
        comment="outbox: changes of subscriptions for Stripe; frozen",
    )
    op.create_index(op.f("subscription_changes_business_id_idx"), "subscription_changes", ["business_id"], unique=False)
    op.create_index(
        "subscription_changes_due_idx",
        "subscription_changes",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.create_index(
        "subscription_changes_one_unsettled",
        "subscription_changes",
        ["subscription_id"],
        unique=True,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.create_table(
        "usage_records",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("plan_id", sa.SmallInteger(), nullable=False),
        sa.Column(
            "subscription_id",
            sa.BigInteger(),
            nullable=True,
            comment="whose metered item's period this is; null: calendar month, not for Stripe",
        ),
        sa.Column("period_start", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("period_end", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column(
            "provisional",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="bounds by anchor arithmetic; nothing is pushed or closed from it",
        ),
        sa.Column(
            "included_minutes",
            sa.Integer(),
            nullable=False,
            comment="the plan's, when the record was made or the plan changed",
        ),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("seconds", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "minutes",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of its calls and its adjustments",
        ),
        sa.Column(
            "adjustment_minutes",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="the part carried into it",
        ),
        sa.Column(
            "pushed_minutes",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="sum of the pushes with a timestamp in the period that Stripe accepted",
        ),
        sa.Column("opened_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("closed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("invoiced_minutes", sa.Integer(), nullable=True, comment="on the finalised invoice"),
        sa.Column(
            "settled_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="when the finalised invoice was compared and the difference carried",
        ),
        sa.Column(
            "statement",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
            comment="frozen at the close",
        ),
        postgresql.ExcludeConstraint(
            (sa.column("business_id"), "="),
            (sa.text("tstzrange(period_start, period_end)"), "&&"),
            using="gist",
            name="usage_records_no_overlap",
        ),
        sa.CheckConstraint("(state = 'closed') = (closed_at is not null)", name=op.f("usage_records_closed_at_check")),
        sa.CheckConstraint("state in ('open', 'closing', 'closed')", name=op.f("usage_records_state_check")),
        sa.CheckConstraint("calls >= 0 and seconds >= 0", name=op.f("usage_records_figures_check")),
        sa.CheckConstraint("period_start < period_end", name=op.f("usage_records_period_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("usage_records_business_id_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["subscription_plans.id"], name=op.f("usage_records_plan_id_fkey")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("usage_records_subscription_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("usage_records_pkey")),
        sa.UniqueConstraint("business_id", "period_start", name=op.f("usage_records_business_id_period_start_key")),
        comment="one business in one billing period, half-open, UTC",
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index(
        "usage_records_closing_idx",
        "usage_records",
        ["period_end"],
        unique=False,
        postgresql_where=sa.text("state = 'closing'"),
    )
    op.create_index(
        "usage_records_due_idx",
        "usage_records",
        ["period_end"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "usage_records_pushable_idx",
        "usage_records",
        ["business_id"],
        unique=False,
        postgresql_where=sa.text("state <> 'closed' and subscription_id is not null"),
    )
    op.create_index(
        "usage_records_unsettled_idx",
        "usage_records",
        ["business_id"],
        unique=False,
        postgresql_where=sa.text("state = 'closed' and subscription_id is not null and settled_at is null"),
    )
    op.create_table(
        "calls",
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("parent_sid", sa.Text(), nullable=True),
        sa.Column(
            "business_id", sa.BigInteger(), nullable=True, comment="null: a child leg whose parent is not known yet"
        ),
        sa.Column("number", sa.Text(), nullable=True, comment="the number of ours that the call was charged by"),
        sa.Column("direction", sa.Text(), nullable=True),
        sa.Column("from_number", sa.Text(), nullable=True),
        sa.Column("to_number", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "rank",
            sa.BigInteger(),
            nullable=False,
            comment="orders reports of a call: terminal, API over callback, sequence or fetch instant",
        ),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="null until the leg has ended"),
        sa.Column(
            "estimated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="the end is when we received it, for want of a timestamp",
        ),
        sa.Column("seconds", sa.Integer(), nullable=True, comment="null: not known (yet)"),
        sa.Column(
            "minutes",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="billable minutes by all that is known",
        ),
        sa.Column(
            "counted",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="part of its usage record's figures; frozen once the record has closed",
        ),
        sa.Column("counted_minutes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("counted_seconds", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "price",
            sa.Numeric(precision=12, scale=6),
            nullable=True,
            comment="what Twilio charged us; often known only later",
        ),
        sa.Column("price_unit", sa.Text(), nullable=True),
        sa.Column("event_id", sa.BigInteger(), nullable=True, comment="the webhook event that set the present state"),
        sa.Column("was_business_id", sa.BigInteger(), nullable=True),
        sa.Column("was_usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column("was_counted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("was_minutes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("was_counted_minutes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("was_counted_seconds", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "status in ('queued', 'initiated', 'ringing', 'in-progress', 'completed', 'busy', 'no-answer', 'failed', 'canceled')",
            name=op.f("calls_status_check"),
        ),
        sa.CheckConstraint("(price is null) = (price_unit is null)", name=op.f("calls_price_check")),
        sa.CheckConstraint(
            "counted or (counted_minutes = 0 and counted_seconds = 0)", name=op.f("calls_counted_figures_check")
        ),
        sa.CheckConstraint(
            "minutes >= 0 and counted_minutes >= 0 and counted_seconds >= 0", name=op.f("calls_figures_check")
        ),
        sa.CheckConstraint("not counted or usage_record_id is not null", name=op.f("calls_counted_somewhere_check")),
        sa.CheckConstraint("seconds >= 0", name=op.f("calls_seconds_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("calls_business_id_fkey")),
        sa.ForeignKeyConstraint(["usage_record_id"], ["usage_records.id"], name=op.f("calls_usage_record_id_fkey")),
        sa.PrimaryKeyConstraint("sid", name=op.f("calls_pkey")),
        comment="one Twilio call leg",
    )
    op.create_index(
        "calls_orphans_idx", "calls", ["parent_sid"], unique=False, postgresql_where=sa.text("business_id is null")
    )
    op.create_index("calls_usage_record_id_idx", "calls", ["usage_record_id"], unique=False)
    op.create_table(
        "meter_pushes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("event_name", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False, comment="the delta; negative corrects"),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=False, comment="a whole minute inside the period"),
        sa.Column("state", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="429 costs none"),
        sa.Column(
            "server_errors",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="5xx answers: each makes the next idempotency key a new one",
        ),
        sa.Column(
            "due_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="not before; while sending, the end of the lease",
        ),
        sa.Column(
            "first_sent_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="machine clock; Stripe's identifier window runs from it",
        ),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="machine clock"),
        sa.Column("answer", sa.Text(), nullable=True, comment="Stripe's words"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state in ('planned', 'sending', 'sent', 'failed', 'released', 'unknown', 'void')",
            name=op.f("meter_pushes_state_check"),
        ),
        sa.CheckConstraint("length(identifier) <= 100", name=op.f("meter_pushes_identifier_check")),
        sa.CheckConstraint("minutes <> 0", name=op.f("meter_pushes_minutes_check")),
        sa.CheckConstraint("mod(extract(epoch from timestamp), 60) = 0", name=op.f("meter_pushes_timestamp_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("meter_pushes_business_id_fkey")),
        sa.ForeignKeyConstraint(
            ["usage_record_id"], ["usage_records.id"], name=op.f("meter_pushes_usage_record_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("meter_pushes_pkey")),
        sa.UniqueConstraint("identifier", name=op.f("meter_pushes_identifier_key")),
        comment="outbox: meter events for Stripe; a trigger keeps identifier, value and timestamp frozen",
    )
    op.create_index(
        "meter_pushes_business_id_timestamp_idx", "meter_pushes", ["business_id", "timestamp"], unique=False
    )
    op.create_index(
        "meter_pushes_due_idx",
        "meter_pushes",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.create_index(
        "meter_pushes_failed_idx",
        "meter_pushes",
        ["usage_record_id"],
        unique=False,
        postgresql_where=sa.text("state = 'failed'"),
    )
    op.create_index(
        "meter_pushes_one_unsettled",
        "meter_pushes",
        ["business_id"],
        unique=True,
        postgresql_where=sa.text("state in ('planned', 'sending', 'unknown')"),
    )
    op.create_index(op.f("meter_pushes_usage_record_id_idx"), "meter_pushes", ["usage_record_id"], unique=False)
    op.create_table(
        "phone_number_assignments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("held", postgresql.TSTZRANGE(), nullable=False, comment="half-open, business clock"),
        postgresql.ExcludeConstraint(
            (sa.column("number"), "="),
            (sa.column("held"), "&&"),
            using="gist",
            name="phone_number_assignments_one_holder",
        ),
        sa.CheckConstraint("not isempty(held)", name=op.f("phone_number_assignments_held_check")),
        sa.ForeignKeyConstraint(
            ["business_id"], ["businesses.id"], name=op.f("phone_number_assignments_business_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["number"], ["phone_numbers.number"], name=op.f("phone_number_assignments_number_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("phone_number_assignments_pkey")),
        comment="who held a number when; a call belongs to the holder at its start",
    )
    op.create_index(
        op.f("phone_number_assignments_business_id_idx"), "phone_number_assignments", ["business_id"], unique=False
    )
    op.create_index(op.f("phone_number_assignments_number_idx"), "phone_number_assignments", ["number"], unique=False)
    op.create_table(
        "usage_adjustments",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column("origin_record_id", sa.BigInteger(), nullable=False),
        sa.Column("call_sid", sa.Text(), nullable=True, comment="null: the difference to the finalised invoice"),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(kind = 'carried') = (usage_record_id is not null)", name=op.f("usage_adjustments_carried_somewhere_check")
        ),
        sa.CheckConstraint(
            "kind in ('carried', 'written-off', 'unbillable')", name=op.f("usage_adjustments_kind_check")
        ),
        sa.CheckConstraint("minutes <> 0", name=op.f("usage_adjustments_minutes_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("usage_adjustments_business_id_fkey")),
        sa.ForeignKeyConstraint(
            ["origin_record_id"], ["usage_records.id"], name=op.f("usage_adjustments_origin_record_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["usage_record_id"], ["usage_records.id"], name=op.f("usage_adjustments_usage_record_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("usage_adjustments_pkey")),
        comment="minutes carried between periods, each with its call (or settlement) and its own period",
    )
    op.create_index(op.f("usage_adjustments_business_id_idx"), "usage_adjustments", ["business_id"], unique=False)
    op.create_index("usage_adjustments_call_sid_idx", "usage_adjustments", ["call_sid"], unique=False)
    op.create_index("usage_adjustments_origin_record_id_idx", "usage_adjustments", ["origin_record_id"], unique=False)
    op.create_index("usage_adjustments_usage_record_id_idx", "usage_adjustments", ["usage_record_id"], unique=False)
    op.create_table(
        "usage_alerts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column("plan_id", sa.SmallInteger(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False, comment="what there was: minutes, agents, numbers"),
        sa.Column("limit", sa.Integer(), nullable=False, comment="what the plan includes"),
        sa.Column("raised_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind in ('minutes-80', 'minutes-100', 'agents', 'numbers')", name=op.f("usage_alerts_kind_check")
        ),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("usage_alerts_business_id_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["subscription_plans.id"], name=op.f("usage_alerts_plan_id_fkey")),
        sa.ForeignKeyConstraint(
            ["usage_record_id"], ["usage_records.id"], name=op.f("usage_alerts_usage_record_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("usage_alerts_pkey")),
        comment="a limit reached: minutes once per record, agents and numbers once until it is resolved",
    )
    op.create_index(
        "usage_alerts_once",
        "usage_alerts",
        ["business_id", "kind", "usage_record_id", "plan_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("resolved_at is null"),
    )
    op.create_table(
        "call_transcripts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("call_sid", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["call_sid"], ["calls.sid"], name=op.f("call_transcripts_call_sid_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("call_transcripts_pkey")),
        comment="what was said",
    )
    op.create_index(op.f("call_transcripts_call_sid_idx"), "call_transcripts", ["call_sid"], unique=False)
    op.execute(FREEZE_PUSHES)
    op.execute(FREEZE_CHANGES)
    op.execute(PLANS)


def downgrade() -> None:
    op.drop_index(op.f("call_transcripts_call_sid_idx"), table_name="call_transcripts")
    op.drop_table("call_transcripts")
    op.drop_index(
        "usage_alerts_once",
        table_name="usage_alerts",
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("resolved_at is null"),
    )
    op.drop_table("usage_alerts")
    op.drop_index("usage_adjustments_usage_record_id_idx", table_name="usage_adjustments")
    op.drop_index("usage_adjustments_origin_record_id_idx", table_name="usage_adjustments")
    op.drop_index("usage_adjustments_call_sid_idx", table_name="usage_adjustments")
    op.drop_index(op.f("usage_adjustments_business_id_idx"), table_name="usage_adjustments")
    op.drop_table("usage_adjustments")
    op.drop_index(op.f("phone_number_assignments_number_idx"), table_name="phone_number_assignments")
    op.drop_index(op.f("phone_number_assignments_business_id_idx"), table_name="phone_number_assignments")
    op.drop_table("phone_number_assignments")
    op.drop_index(op.f("meter_pushes_usage_record_id_idx"), table_name="meter_pushes")
    op.drop_index(
        "meter_pushes_one_unsettled",
        table_name="meter_pushes",
        postgresql_where=sa.text("state in ('planned', 'sending', 'unknown')"),
    )
    op.drop_index("meter_pushes_failed_idx", table_name="meter_pushes", postgresql_where=sa.text("state = 'failed'"))
    op.drop_index(
        "meter_pushes_due_idx", table_name="meter_pushes", postgresql_where=sa.text("state in ('planned', 'sending')")
    )
    op.drop_index("meter_pushes_business_id_timestamp_idx", table_name="meter_pushes")
    op.drop_table("meter_pushes")
    op.drop_index("calls_usage_record_id_idx", table_name="calls")
    op.drop_index("calls_orphans_idx", table_name="calls", postgresql_where=sa.text("business_id is null"))
    op.drop_table("calls")
    op.drop_index(
        "usage_records_unsettled_idx",
        table_name="usage_records",
        postgresql_where=sa.text("state = 'closed' and subscription_id is not null and settled_at is null"),
    )
    op.drop_index(
        "usage_records_pushable_idx",
        table_name="usage_records",
        postgresql_where=sa.text("state <> 'closed' and subscription_id is not null"),
    )
    op.drop_index("usage_records_due_idx", table_name="usage_records", postgresql_where=sa.text("state = 'open'"))
    op.drop_index(
        "usage_records_closing_idx", table_name="usage_records", postgresql_where=sa.text("state = 'closing'")
    )
    op.drop_table("usage_records")
    op.drop_index(
        "subscription_changes_one_unsettled",
        table_name="subscription_changes",
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.drop_index(
        "subscription_changes_due_idx",
        table_name="subscription_changes",
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.drop_index(op.f("subscription_changes_business_id_idx"), table_name="subscription_changes")
    op.drop_table("subscription_changes")
    op.drop_index(op.f("phone_numbers_business_id_idx"), table_name="phone_numbers")
    op.drop_index(op.f("phone_numbers_agent_id_idx"), table_name="phone_numbers")
    op.drop_table("phone_numbers")
    op.drop_table("agent_scripts")
    op.drop_index(op.f("agent_knowledge_agent_id_idx"), table_name="agent_knowledge")
    op.drop_table("agent_knowledge")
    op.drop_index("subscriptions_business_id_idx", table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_index("stripe_invoices_subscription_period_idx", table_name="stripe_invoices")
    op.drop_index(op.f("stripe_invoices_business_id_idx"), table_name="stripe_invoices")
    op.drop_table("stripe_invoices")
    op.drop_index("drifts_open_key", table_name="drifts", postgresql_where=sa.text("resolved_at is null"))
    op.drop_index(op.f("drifts_business_id_idx"), table_name="drifts")
    op.drop_table("drifts")
    op.drop_index(op.f("business_members_user_id_idx"), table_name="business_members")
    op.drop_table("business_members")
    op.drop_index(op.f("api_keys_business_id_idx"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_index(op.f("ai_agents_business_id_idx"), table_name="ai_agents")
    op.drop_table("ai_agents")
    op.drop_index(op.f("stripe_prices_product_id_idx"), table_name="stripe_prices")
    op.drop_table("stripe_prices")
    op.drop_index(op.f("businesses_owner_id_idx"), table_name="businesses")
    op.drop_table("businesses")
    op.drop_index("webhook_events_received_at_idx", table_name="webhook_events", postgresql_using="brin")
    op.drop_index("webhook_events_due_idx", table_name="webhook_events", postgresql_where=sa.text("state = 'pending'"))
    op.drop_index("webhook_events_dead_idx", table_name="webhook_events", postgresql_where=sa.text("state = 'dead'"))
    op.drop_table("webhook_events")
    op.drop_index("users_email_key", table_name="users")
    op.drop_table("users")
    op.drop_table("subscription_plans")
    op.drop_table("stripe_customers")
    op.drop_index("refreshes_due_idx", table_name="refreshes", postgresql_where=sa.text("mark > fetched_mark"))
    op.drop_table("refreshes")
    op.drop_table("listings")
    op.drop_table("claims")
    op.execute("drop function frozen_push")
    op.execute("drop function frozen_change")
    op.execute("drop sequence refresh_marks")
