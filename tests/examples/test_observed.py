"""The example that is watched: the data of its page, its metrics, its spans, and its end."""

from __future__ import annotations

from tests.examples.programs import EXAMPLES, example, started


def test_the_data_of_the_page_has_each_order_with_its_tasks() -> None:
    printed = example("observed.py", "check")
    mails = 'taskphase_tasks_ended_total{function="__main__.send_mail",outcome="succeeded",phase="after_response"} 24.0'
    assert mails in printed
    spans = [line.partition(":")[0] for line in printed if line.startswith("span ")]
    assert (spans.count("span task __main__.send_mail"), spans.count("span task __main__.remind")) == (24, 8)
    assert [line for line in printed if line.startswith("POST /orders/")] == [
        "POST /orders/1: 1 dropped, 7 succeeded",
        "POST /orders/2: 1 dropped, 7 succeeded",
        "POST /orders/3: 1 dropped, 7 succeeded",
        "POST /orders/4: 1 dropped, 7 succeeded",
        "POST /orders/5: 5 dropped, 2 succeeded",
        "POST /orders/6: 1 dropped, 7 succeeded",
        "POST /orders/7: 1 dropped, 1 failed, 6 succeeded",
        "POST /orders/8: 1 dropped, 7 succeeded",
        "POST /orders/9: 1 dropped, 7 succeeded",
        "POST /orders/10: 5 dropped, 2 succeeded",
    ]


def test_the_app_serves_its_page_until_it_is_interrupted() -> None:
    with started(str(EXAMPLES / "observed.py")) as program:
        assert program.until("watch the tasks: ").endswith("/_tasks/")
        program.interrupt()
        program.end()
