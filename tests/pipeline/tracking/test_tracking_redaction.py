from pipeline.tracking.redaction import REDACTED, Redactor, flatten


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
