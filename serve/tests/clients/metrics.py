"""Prometheus' own parser over the metrics: the format, the conventions, and counts that are exact after many requests at
once."""

import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from prometheus_client.openmetrics.parser import text_string_to_metric_families

URL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
STAGES = ["decode", "preprocess", "queue", "inference", "total"]


def scrape():
    with urlopen(f"{URL}/metrics") as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0"), answer.headers
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {family.name: family for family in families}


def value(families, family, sample, **labels):
    wanted = {name: str(label) for name, label in labels.items()}
    found = [each for each in families[family].samples if each.name == sample and wanted.items() <= each.labels.items()]
    return sum(each.value for each in found)


def status(path, body=None, **headers):
    try:
        return urlopen(Request(URL + path, body, headers)).status
    except HTTPError as error:
        return error.code


def main():
    case = EXPECTED[0]
    model, version = case["model"], case["version"]
    path = f"/v1/models/{model}/versions/{version}/classify"
    route = "/v1/models/{model}/versions/{version}/classify"
    files = [(FOLDER / picture["file"]).read_bytes() for picture in case["pictures"]]
    requests, broken = 120, 30
    before = scrape()
    work = [files[index % len(files)] for index in range(requests)] + [b"no picture"] * broken
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda body: status(path, body), work))
    assert statuses.count(200) == requests and statuses.count(415) == broken, statuses
    assert status("/nowhere") == 404
    after = scrape()

    def grew(family, sample, by, **labels):
        old = value(before, family, sample, **labels) if family in before else 0
        new = value(after, family, sample, **labels)
        assert new - old == by, (sample, labels, old, new, by)

    grew("distill_http_requests", "distill_http_requests_total", requests, route=route, code=200, method="POST")
    grew("distill_http_requests", "distill_http_requests_total", broken, route=route, code=415)
    grew("distill_http_requests", "distill_http_requests_total", 1, route="none", code=404)
    grew("distill_http_errors", "distill_http_errors_total", broken, reason="not_a_picture")
    grew("distill_pictures", "distill_pictures_total", requests, model=model, version=version)
    grew("distill_batch_pictures", "distill_batch_pictures_sum", requests, model=model, version=version)
    grew("distill_http_request_seconds", "distill_http_request_seconds_count", requests + broken, route=route)
    for stage in STAGES:
        labels = {"stage": stage, "model": model, "version": version}
        grew("distill_stage_seconds", "distill_stage_seconds_count", requests, **labels)
        assert value(after, "distill_stage_seconds", "distill_stage_seconds_sum", **labels) < 60, stage
    for loaded in EXPECTED:
        labels = {"model": loaded["model"], "version": loaded["version"]}
        assert value(after, "distill_workers", "distill_workers", **labels) == 2
        assert value(after, "distill_queue_pictures", "distill_queue_pictures", **labels) == 0
    assert value(after, "distill_versions_ready", "distill_versions_ready") == len(EXPECTED)
    assert value(after, "distill_model_loads", "distill_model_loads_total", outcome="loaded") == len(EXPECTED)
    assert value(after, "process_resident_memory_bytes", "process_resident_memory_bytes") > 1e6
    assert value(after, "process_start_time_seconds", "process_start_time_seconds") > 1.6e9
    assert after["distill_build"].samples[0].labels["version"]
    for family in after.values():
        assert family.documentation, family.name
        if family.type in ("histogram", "gauge") and any(word in family.name for word in ("_seconds", "_bytes")):
            assert family.unit in ("seconds", "bytes"), (family.name, family.unit)
    print("all is well")


main()
