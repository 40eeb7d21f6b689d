from pipeline.tracking import links

STORE = "http://host:5000"


def test_every_address_carries_the_model_training_view_inside_the_hash_route() -> None:
    addresses = [
        links.home_url(STORE),
        links.table_url(STORE, "1"),
        links.charts_url(STORE, "1", ["a"]),
        links.compare_url(STORE, ["1"], ["a"]),
        links.run_url(STORE, "1", "a"),
    ]
    for address in addresses:
        before, hash_mark, route = address.partition("#")
        assert hash_mark, address
        assert "?" not in before
        assert "workflowType=machine_learning" in route.partition("?")[2], address


def test_the_addresses_have_the_form_that_mlflow_reads() -> None:
    assert links.table_url(STORE, "7") == f"{STORE}/#/experiments/7/runs?workflowType=machine_learning"
    assert links.charts_url(STORE, "7").endswith("&compareRunsMode=CHART")
    assert links.charts_url(STORE, "7", ["a", "b"]).endswith(
        "&searchFilter=attributes.run_id%20IN%20%28%27a%27%2C%27b%27%29"
    )
    assert links.compare_url(STORE, ["7", "8"], ["a", "b"]) == (
        f"{STORE}/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%2C%228%22%5D"
        "&workflowType=machine_learning"
    )


def test_a_database_is_shown_where_make_ui_serves_it_and_no_password_is_printed() -> None:
    assert links.table_url("sqlite:////x/mlflow.db", "1").startswith("http://127.0.0.1:5000/#/")
    assert links.table_url("http://ann:pw@host/", "1").startswith("http://host/#/")
