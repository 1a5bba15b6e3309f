"""Queue `maintenance`: mails to people."""

import structlog

from accounts import mail_sending
from pipeline.shared.settings import DashboardSettings, MailSettings, load
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="mail.send")
def send_mails() -> None:
    """Send the mails that are due; without a mail server they wait."""
    settings = load(MailSettings)
    if settings.smtp_url is None:
        return
    counts = mail_sending.send_due_mails(engine(), settings, load(DashboardSettings).dashboard_url)
    if counts:
        log.info("sent-mails", **counts)
