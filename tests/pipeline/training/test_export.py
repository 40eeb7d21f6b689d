"""What goes into a bundle beside its weights."""

from pipeline.config.plain import Config
from pipeline.tracking.redaction import Redactor
from pipeline.training.export import _without_secrets


def test_what_is_configured_is_redacted_and_what_is_learnt_of_the_rows_is_not() -> None:
    labels = ["password: reset", "token: lost"]
    config = Config({"task": {"note": "password: hunter22"}})
    task = {"note": "password: hunter22", "label_names": labels}
    kept = _without_secrets(task, config, Redactor({}))
    assert kept["label_names"] == labels
    assert "hunter22" not in kept["note"]
