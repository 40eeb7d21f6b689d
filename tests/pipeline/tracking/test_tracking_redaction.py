import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.compose import compose_unchecked
from pipeline.config.groups import groups
from pipeline.config.plain import to_plain
from pipeline.config.tasks import finetuning_tasks
from pipeline.tracking import DatasetRecord, RunCard, TrackingOptions, start_run
from pipeline.tracking.redaction import Redactor, flatten
from pipeline.tracking.secret_forms import REDACTED, without_credentials


def test_a_secret_is_known_by_its_key_wherever_it_stands() -> None:
    config = {
        "data": {"hf_token": "abc", "password": 12345, "nested": [{"api_key": "xyz"}]},
        "secrets": {"anything": "value"},
        "AWS_SECRET_ACCESS_KEY": "q",
    }
    kept = Redactor({}).value("", config)
    assert kept["data"] == {"hf_token": REDACTED, "password": REDACTED, "nested": [{"api_key": REDACTED}]}
    assert kept["secrets"] == REDACTED
    assert kept["AWS_SECRET_ACCESS_KEY"] == REDACTED


def test_the_fields_own_tokens_are_no_secrets() -> None:
    config = {
        "max_tokens": 5,
        "tokenizer": "bpe",
        "pad_token": "<pad>",
        "row_tokens": 64,
        "token": None,
        "n_token": 3,
    }
    assert Redactor({}).value("", config) == config


@pytest.mark.parametrize(
    "key",
    [
        *(
            "PGPASSWORD",
            "dbPassword",
            "passwords",
            "passphrase",
            "ssh_passphrase",
            "clientSecret",
            "secretKey",
        ),
        *("authToken", "accessToken", "access_tokens", "hf_tokens", "hftoken", "OPENAI_API_TOKEN"),
        *("openaiApiKey", "apikeys", "OPENAI_KEY", "ENCRYPTION_KEY", "privateKeys", "AWS_SECRET_ACCESS_KEY"),
        *(
            "pass",
            "dbPass",
            "db-pass",
            "cookie",
            "sessionCookies",
            "slack_webhook",
            "DB-Password",
            "accountKey",
        ),
        *("SharedAccessSignature", "x-api-key", "X-API-KEY", "apikey", "userCredentials", "Authorization"),
        *("DB_PASS", "RABBITMQ_DEFAULT_PASS", "GITHUB_PAT", "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_a_secret_is_known_by_any_common_form_of_its_key(key: str) -> None:
    assert Redactor({}).value(key, "swordfish") == REDACTED
    assert Redactor({}).value(key, ["swordfish"]) in (REDACTED, [REDACTED])
    assert Redactor({}).text(f"{key}=swordfish") == f"{key}={REDACTED}"
    assert Redactor({key: "swordfish"}).text("it is swordfish") == f"it is {REDACTED}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("tokenizer", "bpe"), ("tokenizer.kind", "bpe"), ("special_tokens", "user"), ("sep_token", "</s>")],
        *[("max_question_tokens", "64"), ("mean_span_tokens", "3.5"), ("max_new_tokens", "null")],
        *[("added_tokens", "<user>"), ("bytes_per_token", "3.9"), ("train_tokens", "1e9")],
        *[
            ("key", "name"),
            ("monkey", "x"),
            ("keys", "a"),
            ("author", "ann"),
            ("passage", "x"),
            ("pass", "2"),
        ],
        *[("MAX_PATH", "x"), ("KEYBOARD", "x"), ("PATH", "x"), ("compass", "x"), ("secretary", "x")],
    ],
)
def test_a_key_that_only_looks_like_a_secret_keeps_its_value(key: str, value: str) -> None:
    assert Redactor({}).value(key, value) == value
    assert Redactor({}).text(f"{key}={value}") == f"{key}={value}"


@pytest.mark.slow
def test_no_key_of_a_configuration_is_taken_for_a_secret() -> None:
    tasks = [
        ("finetune" if name in finetuning_tasks() else "pretrain", f"task={name}")
        for name in groups()["task"]
    ]
    for stage, task in tasks:
        config = to_plain(compose_unchecked(stage, [task]))
        assert Redactor({}).value("", config) == config


def test_credentials_in_an_address_are_taken_out_and_the_address_stays() -> None:
    assert Redactor({}).text("see http://ann:pw@host:5000/x") == f"see http://{REDACTED}@host:5000/x"


def test_known_forms_of_keys_are_redacted_inside_any_text() -> None:
    text = "use hf_abcdefghijklmnopqrst, Bearer abcdefgh12345678 and AKIAABCDEFGHIJKLMNOP"
    assert Redactor({}).text(text) == f"use {REDACTED}, Bearer {REDACTED} and {REDACTED}"


def test_the_value_of_a_secret_environment_variable_is_redacted_under_an_innocent_key() -> None:
    redactor = Redactor({"MY_SERVICE_TOKEN": "s3cr3t-value", "HOME": "/home/ann"})
    assert redactor.value("note", "it is s3cr3t-value in /home/ann") == f"it is {REDACTED} in /home/ann"


def test_a_command_line_is_redacted_by_its_keys() -> None:
    argv = ["prog", "hf_token=abc", "--password", "pw", "tracking.uri=http://a:b@h", "max_tokens=5"]
    shown = Redactor({}).command(argv)
    assert (
        shown
        == f"prog hf_token={REDACTED} --password {REDACTED} tracking.uri=http://{REDACTED}@h max_tokens=5"
    )


def test_a_configuration_is_flattened_with_dots_and_lists_stay_whole() -> None:
    config = {"model": {"layer": {"d_model": 8, "names": ["a", {"b": 1}]}}, "empty": {}, "x": None, "t": "é"}
    assert flatten(config) == {
        "model.layer.d_model": "8",
        "model.layer.names": '["a", {"b": 1}]',
        "empty": "{}",
        "x": "null",
        "t": "é",
    }


def test_long_values_are_cut_and_stay_different() -> None:
    cut = flatten({"a": "x" * 600 + "1", "b": "x" * 600 + "2"})
    assert len(cut["a"]) == 500
    assert cut["a"] != cut["b"]


def test_the_working_folder_is_no_secret() -> None:
    redactor = Redactor({"PWD": "/home/me/project", "OLDPWD": "/home/me", "MY_PWD": "swordfish"})
    assert redactor.text("cd /home/me/project with swordfish") == f"cd /home/me/project with {REDACTED}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p/w@host:5432/db", f"postgresql://{REDACTED}@host:5432/db"),
        ("mysql+pymysql://u:p/w@host/db", f"mysql+pymysql://{REDACTED}@host/db"),
        ("postgresql://host/db?user=u&password=pw", f"postgresql://host/db?user=u&password={REDACTED}"),
        ("host=h user=u password=pw dbname=d", f"host=h user=u password={REDACTED} dbname=d"),
        ("https://oauth2:tok@git.example/a/b.git", f"https://{REDACTED}@git.example/a/b.git"),
        ("https://x/y?X-Amz-Signature=abc&part=1", f"https://x/y?X-Amz-Signature={REDACTED}&part=1"),
        ("https://x/y?access_token=abc", f"https://x/y?access_token={REDACTED}"),
        ('given {"password": "pw", "rows": "5"}', f'given {{"password": "{REDACTED}", "rows": "5"}}'),
        ("http://host:5000/x@y?page=2", "http://host:5000/x@y?page=2"),
        ("git@git.example:a/b.git", "git@git.example:a/b.git"),
        ("pad_token=<pad> max_tokens=5 key=a", "pad_token=<pad> max_tokens=5 key=a"),
    ],
)
def test_secrets_inside_a_text_are_known_by_their_place(text: str, shown: str) -> None:
    assert Redactor({}).text(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # addresses
        ("https://user:p@ss@host/x", "https://<redacted>@host/x"),
        ("mssql+pyodbc://u:p/w@h", "mssql+pyodbc://<redacted>@h"),
        ("redis://:p@s/w@h:6379/0", "redis://<redacted>@h:6379/0"),
        ("postgresql://u:12/34@h/db", "postgresql://<redacted>@h/db"),
        ("https://ann:p#w?d@h/x", "https://<redacted>@h/x"),
        ("see http://a:b@c, then https://d:e/f@g.", "see http://<redacted>@c, then https://<redacted>@g."),
        ("https://glpat-AbCdEfGhIjKlMnOpQrSt@git.example/a.git", "https://<redacted>@git.example/a.git"),
        ("mssql:///?odbc=UID%3Du%3BPWD%3Dpw%3Bx", "mssql:///?odbc=UID%3Du%3BPWD%3D<redacted>%3Bx"),
        # keys
        ("AccountKey=abc+/==;EndpointSuffix=e", "AccountKey=<redacted>;EndpointSuffix=e"),
        ("password: x", "password: <redacted>"),
        ("{'dbPassword': 'a b', 'n': 1}", "{'dbPassword': '<redacted>', 'n': 1}"),
        (r'{\"api_key\": \"x\", \"n\": 1}', r'{\"api_key\": \"<redacted>\", \"n\": 1}'),
        ('password="a \\"b\\" c" user=u', 'password="<redacted>" user=u'),
        ("passwd = pw,1", "passwd = <redacted>"),
        ("connect(password=pw)", "connect(password=<redacted>)"),
        ("curl --api-key zz --max-tokens 5", "curl --api-key <redacted> --max-tokens 5"),
        ("run --token abc --tokenizer bpe", "run --token <redacted> --tokenizer bpe"),
        ("curl -u ann:pw https://x", "curl -u <redacted> https://x"),
        ("-H 'X-Api-Key: zz'", "-H 'X-Api-Key: <redacted>"),
        ("Cookie: session=abc; theme=dark", "Cookie: <redacted>"),
        ("Authorization: token abc", "Authorization: <redacted>"),
        ("pass=swordfish cookie=monster", "pass=<redacted> cookie=<redacted>"),
        ("access_token: a1b2c3d4", "access_token: <redacted>"),
        # webhooks
        *[
            (f"post to {host}{secret} today", f"post to {host}{REDACTED} today")
            for host, secret in (
                ("https://hooks.slack.com/", "services/T0/B0/XXXXXXXXXXXXXXXXXXXXXXXX"),
                ("https://discord.com/api/webhooks/", "123456789/a-bCdEfGhIjKlMnOpQrS"),
                ("https://x.webhook.office.com/webhookb2/", "0123456789abcdef@y/z"),
                ("https://chat.example.org/hooks/", "abcdefghijklmnopqrstuvwxyz"),
            )
        ],
        # forms
        *[
            (f"see {secret}.", f"see {REDACTED}.")
            for secret in (
                *("glpat-" + "aB3_" * 5, "npm_" + "aB3d" * 9, "pypi-" + "AgEIcHlwaS5vcmc" * 2),
                "whsec_" + "a1" * 10,
                *("ASIA" + "ABCDEFGHIJKLMNOP", "xoxb-" + "1234567890-abc", "sk-ant-" + "api03-abcdefgh1234"),
                *("sk_live_" + "4eC39HqLyj", "dckr_pat_" + "aB3d" * 6),
            )
        ],
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----\nrest", "<redacted>\nrest"),
        ("key: -----BEGIN PRIVATE KEY-----\\nMIIEow", "key: <redacted>"),
    ],
)  # fmt: skip
def test_a_secret_is_hidden_and_what_stands_around_it_is_kept(text: str, shown: str) -> None:
    assert Redactor({}).text(text) == shown
    assert Redactor({}).text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer: bpe, max_tokens: 512, tokens_seen=123456, row_tokens: 64, pad_token: <pad>",
        '{"text": "There", "first_token": 1, "last_token": 12, "attribution": 0.5}',
        "token: the smallest piece of a text; cookies: two, with milk; pass: 2",
        "a token: it has a meaning. She had a secret, and passed it on. Basic words",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "git_commit: 3f786850e387550fdab836ed7e6dc881de23001b, seed=1",
        "/data/passwords/secret/file.txt and runs/token-1/bundles/best",
        "http://host:5000/#/experiments/1/runs?workflowType=machine_learning",
        "http://127.0.0.1:5000/user@example.org and hf://datasets/ann/set@main/x.parquet",
        "git+https://github.com/a/b@v1.0, models:/prelude-qa@champion, sqlite:////a/b:c@d.db",
        "https://docs.github.com/en/webhooks/about-webhooks",
        "task-classify-storyworld-0612-101112, skipping, pressing, risk-free, monkey=banana, primary_key=id",
        "compass=n passage=x author=ann keyboard=de sort_key=date bypass=no n_pass=3",
        "lr=0.003 epochs: 3 note: a password is a word",
        "-----BEGIN CERTIFICATE-----",
        "密码学：一个词，token 的意思是词元",
    ],
)
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert Redactor({}).text(text) == text


def test_an_address_is_shown_without_credentials() -> None:
    assert without_credentials("postgresql://u:p/w@host/db") == "postgresql://host/db"


def test_no_secret_reaches_any_record_or_file_of_a_run(tmp_path: Path) -> None:
    """Wherever a secret may stand: keys, texts, addresses, lists, tags, corpora, descriptions, files."""
    secrets = ("swordfish", "s3cr3t-value", "tok99", "sig88", "p/w77")
    config: dict[str, Any] = {
        "db": {"password": "swordfish"},
        "sources": ["https://oauth2:tok99@git.example/x.git", "https://x/y?sig=sig88"],
        "store": "postgresql://u:p/w77@host/db",
        "note": "use s3cr3t-value here",
        "optimizer": {"_target_": "modules.optim.Muon", "lr": 0.003, "auth": "swordfish"},
    }
    environ = {"PATH": os.environ["PATH"], "SERVICE_TOKEN": "s3cr3t-value"}
    card = RunCard(
        stage="pretrain", name="n s3cr3t-value", config=config, tags={"remote": config["sources"][0]}
    )
    options = TrackingOptions(uri="http://u:swordfish@127.0.0.1:9", end_wait_s=0.0, system_metrics=False)
    run = start_run(card, options=options, run_folder=tmp_path, project_folder=tmp_path, environ=environ)
    source = "https://x/y?sig=sig88"
    run.log_dataset(
        DatasetRecord(name="c", digest="0" * 40, source=source, profile={"api_key": "tok99"}), "train"
    )
    run.set_tags({"why": "because of s3cr3t-value"})
    run.log_text("password=swordfish and s3cr3t-value", "note.md")
    run.log_bundle(tmp_path / "b", name="best", step=1, metrics={})
    run.end("FINISHED", {"val/loss": 1.0})
    for file in tmp_path.rglob("*"):
        if file.is_file():
            text = file.read_text(errors="replace")
            assert [secret for secret in secrets if secret in text] == [], file
    kept = yaml.safe_load((tmp_path / "tracking/files/config.yaml").read_text())
    assert kept["optimizer"]["lr"] == 0.003
    assert kept["db"] == {"password": REDACTED}
    start = json.loads((tmp_path / "tracking/points.jsonl").read_text().splitlines()[0])
    assert start["params"]["db.password"] == REDACTED
    assert start["params"]["store"] == f"postgresql://{REDACTED}@host/db"
