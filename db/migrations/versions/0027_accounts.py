"""accounts

How people come in and stay in, and what keys may do. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    op.create_table(
        "attempt_limits",
        sa.Column("bucket", sa.LargeBinary(), nullable=False),
        sa.Column(
            "full_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="when all that was used up is there again"
        ),
        sa.PrimaryKeyConstraint("bucket", name=op.f("attempt_limits_pkey")),
        comment="how often something was tried: one instant a bucket (GCRA), named by a digest",
    )
    op.create_index(op.f("attempt_limits_full_at_idx"), "attempt_limits", ["full_at"], unique=False)
    op.create_table(
        "known_devices",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("known_devices_user_id_fkey")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("known_devices_pkey")),
        comment="browsers from which somebody has signed in: no stranger can lock them out",
    )
    op.create_index(op.f("known_devices_user_id_idx"), "known_devices", ["user_id"], unique=False)
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("code_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("used_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("recovery_codes_user_id_fkey")),
        sa.PrimaryKeyConstraint("user_id", "code_sha256", name=op.f("recovery_codes_pkey")),
        comment="for who has lost the second factor: each works once",
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("used_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "proven_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when password and code were last given",
        ),
        sa.Column("second_factor", sa.Boolean(), nullable=False, comment="whether a code was given with the password"),
        sa.Column("idle_seconds", sa.Integer(), nullable=False, comment="it ends when it was not used for so long"),
        sa.Column("ends_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="at the latest"),
        sa.Column(
            "device", sa.Text(), nullable=False, comment="what the browser says it is, for the person to recognise"
        ),
        sa.Column("address", sa.Text(), nullable=False, comment="the network address it began from"),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "ended_by", sa.Text(), nullable=True, comment="sign-out, reuse, password, address, deactivated, staff"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("sessions_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("sessions_pkey")),
        comment="who is signed in, on which device; all its refresh tokens are one family",
    )
    op.create_index(
        "sessions_user_id_idx", "sessions", ["user_id"], unique=False, postgresql_where=sa.text("ended_at is null")
    )
    op.create_table(
        "account_links",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False, comment="where it is mailed, and whose it is"),
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="whose password or address it changes"),
        sa.Column(
            "former_email", sa.Text(), nullable=True, comment="the address before the change, which is told of it"
        ),
        sa.Column("business_id", sa.BigInteger(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True, comment="that an invitation gives; owner's is the kind ownership"),
        sa.Column("staff_role", sa.Text(), nullable=True),
        sa.Column("invited_by", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "ended_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="used, or taken back, or replaced by a newer one",
        ),
        sa.CheckConstraint(
            "kind in ('sign-up', 'invitation', 'staff', 'reset', 'address', 'ownership')",
            name=op.f("account_links_kind_check"),
        ),
        sa.CheckConstraint("role in ('admin', 'member', 'billing')", name=op.f("account_links_role_check")),
        sa.CheckConstraint(
            "staff_role in ('support', 'operator', 'administrator')", name=op.f("account_links_staff_role_check")
        ),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("account_links_business_id_fkey")),
        sa.ForeignKeyConstraint(["invited_by"], ["users.id"], name=op.f("account_links_invited_by_fkey")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("account_links_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("account_links_pkey")),
        comment="what somebody with this address may do by a link that was mailed there, once",
    )
    op.create_index(
        "account_links_business_id_idx",
        "account_links",
        ["business_id"],
        unique=False,
        postgresql_where=sa.text("ended_at is null"),
    )
    op.create_index(op.f("account_links_invited_by_idx"), "account_links", ["invited_by"], unique=False)
    op.create_index(op.f("account_links_user_id_idx"), "account_links", ["user_id"], unique=False)
    op.create_table(
        "refresh_tokens",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="in its session, from 1"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "used_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="first used; from then on the one before is good for 10 s",
        ),
        sa.CheckConstraint("octet_length(token_sha256) = 32", name=op.f("refresh_tokens_token_sha256_check")),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("refresh_tokens_session_id_fkey")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("refresh_tokens_pkey")),
        sa.UniqueConstraint("session_id", "number", name=op.f("refresh_tokens_session_id_number_key")),
        comment="the chain of a session's tokens: each is made of the one before, and known by its digest",
    )
    op.create_table(
        "link_tokens",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("link_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(token_sha256) = 32", name=op.f("link_tokens_token_sha256_check")),
        sa.ForeignKeyConstraint(["link_id"], ["account_links.id"], name=op.f("link_tokens_link_id_fkey")),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("link_tokens_pkey")),
        comment="the secrets of links: each mail that may have left has its own, and any of them is good",
    )
    op.create_index(op.f("link_tokens_link_id_idx"), "link_tokens", ["link_id"], unique=False)
    op.create_table(
        "mails",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("link_id", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("business_id", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True, comment="the mail server's number, without its words"),
        sa.CheckConstraint("state in ('planned', 'sending', 'sent', 'failed', 'void')", name=op.f("mails_state_check")),
        sa.CheckConstraint("link_id is not null or user_id is not null", name=op.f("mails_recipient_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("mails_business_id_fkey")),
        sa.ForeignKeyConstraint(["link_id"], ["account_links.id"], name=op.f("mails_link_id_fkey")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("mails_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("mails_pkey")),
        comment="outbox of mails: kinds and ids; texts and secrets are made when they are sent",
    )
    op.create_index(
        "mails_due_idx", "mails", ["due_at"], unique=False, postgresql_where=sa.text("state in ('planned', 'sending')")
    )
    op.create_index(op.f("mails_link_id_idx"), "mails", ["link_id"], unique=False)
    op.create_index(op.f("mails_user_id_idx"), "mails", ["user_id"], unique=False)
    op.add_column(
        "api_keys",
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="who made it; it may do no more than its maker"),
    )
    op.add_column(
        "api_keys", sa.Column("scopes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column(
        "api_keys",
        sa.Column(
            "last_used_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="to the minute, written now and then"
        ),
    )
    op.add_column("api_keys", sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "api_keys",
        sa.Column(
            "shrunk_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="when its maker lost a right that it has; it ends seven days later unless somebody rotates it",
        ),
    )
    op.alter_column(
        "api_keys",
        "business_id",
        existing_type=sa.BigInteger(),
        nullable=True,
        comment="null: a service key, for all of them",
    )
    op.create_foreign_key(op.f("api_keys_user_id_fkey"), "api_keys", "users", ["user_id"], ["id"])
    op.create_table_comment(
        "api_keys",
        "keys of programs; only the digest of the secret is stored",
        existing_comment="keys of a business's programs; only the digest of the secret is stored",
        schema=None,
    )
    op.add_column(
        "audit_entries",
        sa.Column("by_right", sa.Text(), nullable=True, comment="the right that it was done by, as members:write"),
    )
    op.add_column(
        "audit_entries", sa.Column("request_id", sa.Text(), nullable=True, comment="of the API, to find it in the logs")
    )
    op.add_column(
        "users", sa.Column("password_hash", sa.Text(), nullable=True, comment="argon2id, with its own parameters")
    )
    op.add_column("users", sa.Column("staff_role", sa.Text(), nullable=True, comment="of Altiora's own people"))
    op.add_column(
        "users", sa.Column("totp_secret", sa.LargeBinary(), nullable=True, comment="of the second factor, encrypted")
    )
    op.add_column(
        "users",
        sa.Column(
            "totp_offered", sa.LargeBinary(), nullable=True, comment="one that waits for its first code, encrypted"
        ),
    )
    op.add_column(
        "users",
        sa.Column(
            "totp_step",
            sa.BigInteger(),
            nullable=True,
            comment="the last half minute whose code was used: no code is taken twice",
        ),
    )
    op.add_column("users", sa.Column("deactivated_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.create_table_comment(
        "users",
        "people who sign in, each with an address that was proven; they own businesses or are members",
        existing_comment="people who sign in; they own businesses or are members of them",
        schema=None,
    )
    op.create_check_constraint(op.f("users_name_check"), "users", "length(name) between 1 and 200")
    op.create_check_constraint(
        op.f("users_staff_role_check"), "users", "staff_role in ('support', 'operator', 'administrator')"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("users_staff_role_check"), "users", type_="check")
    op.drop_constraint(op.f("users_name_check"), "users", type_="check")
    op.create_table_comment(
        "users",
        "people who sign in; they own businesses or are members of them",
        existing_comment="people who sign in, each with an address that was proven; they own businesses or are members",
        schema=None,
    )
    op.drop_column("users", "deactivated_at")
    op.drop_column("users", "totp_step")
    op.drop_column("users", "totp_offered")
    op.drop_column("users", "totp_secret")
    op.drop_column("users", "staff_role")
    op.drop_column("users", "password_hash")
    op.drop_column("audit_entries", "request_id")
    op.drop_column("audit_entries", "by_right")
    op.create_table_comment(
        "api_keys",
        "keys of a business's programs; only the digest of the secret is stored",
        existing_comment="keys of programs; only the digest of the secret is stored",
        schema=None,
    )
    op.drop_constraint(op.f("api_keys_user_id_fkey"), "api_keys", type_="foreignkey")
    op.alter_column(
        "api_keys",
        "business_id",
        existing_type=sa.BigInteger(),
        nullable=False,
        comment=None,
        existing_comment="null: a service key, for all of them",
    )
    op.drop_column("api_keys", "shrunk_at")
    op.drop_column("api_keys", "expires_at")
    op.drop_column("api_keys", "last_used_at")
    op.drop_column("api_keys", "scopes")
    op.drop_column("api_keys", "user_id")
    op.drop_index(op.f("mails_user_id_idx"), table_name="mails")
    op.drop_index(op.f("mails_link_id_idx"), table_name="mails")
    op.drop_index("mails_due_idx", table_name="mails", postgresql_where=sa.text("state in ('planned', 'sending')"))
    op.drop_table("mails")
    op.drop_index(op.f("link_tokens_link_id_idx"), table_name="link_tokens")
    op.drop_table("link_tokens")
    op.drop_table("refresh_tokens")
    op.drop_index(op.f("account_links_user_id_idx"), table_name="account_links")
    op.drop_index(op.f("account_links_invited_by_idx"), table_name="account_links")
    op.drop_index(
        "account_links_business_id_idx", table_name="account_links", postgresql_where=sa.text("ended_at is null")
    )
    op.drop_table("account_links")
    op.drop_index("sessions_user_id_idx", table_name="sessions", postgresql_where=sa.text("ended_at is null"))
    op.drop_table("sessions")
    op.drop_table("recovery_codes")
    op.drop_index(op.f("known_devices_user_id_idx"), table_name="known_devices")
    op.drop_table("known_devices")
    op.drop_index(op.f("attempt_limits_full_at_idx"), table_name="attempt_limits")
    op.drop_table("attempt_limits")
