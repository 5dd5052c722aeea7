"""Which requests are understood, and that what goes on to the engine is made anew from them."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainyard.dockerproxy.policy import Policy
from trainyard.dockerproxy.refusal import RefusedError
from trainyard.dockerproxy.routes import OPERATIONS, refuse_headers, understand

POLICY = Policy(images=("trainyard/trainer:*",), networks=("none",))
PULL = Policy(images=POLICY.images, networks=POLICY.networks, pull=True)


@pytest.mark.parametrize(
    ("method", "path", "operation", "upstream"),
    [
        ("GET", "/_ping", "ping", "/_ping"),
        ("HEAD", "/_ping", "ping", "/_ping"),
        ("GET", "/v1.41/version", "version", "/v1.41/version"),
        ("POST", "/v1.41/containers/create?name=ty-1", "create",
         "/v1.41/containers/create?name=ty-1"),
        ("POST", "/containers/ty-1/start", "start", "/containers/FULL/start"),
        ("GET", "/v1.45/containers/ty-1/logs?follow=1&stdout=1&tail=all&since=12.5", "logs",
         "/v1.45/containers/FULL/logs?follow=1&stdout=1&tail=all&since=12.5"),
        ("POST", "/v1.41/containers/ty-1/kill?signal=SIGTERM", "kill",
         "/v1.41/containers/FULL/kill?signal=SIGTERM"),
        ("DELETE", "/v1.41/containers/ty-1?v=1&force=true", "remove",
         "/v1.41/containers/FULL?v=1&force=true"),
        ("POST", "/v1.41/containers/ty-1/attach?stdout=1&stderr=1&stream=1&logs=0", "attach",
         "/v1.41/containers/FULL/attach?stdout=1&stderr=1&stream=1&logs=0"),
        ("GET", "/v1.41/images/trainyard/trainer:dev/json", "image_inspect",
         "/v1.41/images/FULL/json"),
    ],
)  # fmt: skip
def test_what_the_backend_needs_is_understood(method, path, operation, upstream):
    found = understand(method, path, POLICY)
    assert found.operation.name == operation
    assert found.upstream(target="FULL") == upstream


REFUSED = [
    ("GET", "/"), ("GET", "/v1.41"), ("GET", "/v1.41/"), ("OPTIONS", "/_ping"), ("POST", "/_ping"),
    # exec, and everything that changes a container or takes something out of it
    ("POST", "/v1.41/containers/x/exec"), ("POST", "/v1.41/exec/0123/start"),
    ("GET", "/v1.41/exec/0123/json"), ("GET", "/v1.41/containers/x/attach/ws"),
    ("POST", "/v1.41/containers/x/attach?stdin=1&stream=1"),
    ("POST", "/v1.41/containers/x/update"), ("POST", "/v1.41/containers/x/rename?name=y"),
    ("POST", "/v1.41/containers/x/restart"), ("POST", "/v1.41/containers/x/pause"),
    ("POST", "/v1.41/containers/x/unpause"), ("POST", "/v1.41/containers/x/resize?h=1&w=1"),
    ("PUT", "/v1.41/containers/x/archive?path=/"), ("GET", "/v1.41/containers/x/archive?path=/"),
    ("HEAD", "/v1.41/containers/x/archive?path=/"), ("GET", "/v1.41/containers/x/export"),
    ("POST", "/v1.41/containers/x/checkpoints"), ("GET", "/v1.41/containers/x/changes"),
    ("POST", "/v1.41/containers/prune"), ("DELETE", "/v1.41/containers/x?link=1"),
    # images
    ("POST", "/v1.41/build"), ("POST", "/v1.41/build/prune"), ("POST", "/v1.41/commit?container=x"),
    ("POST", "/v1.41/images/load"), ("POST", "/v1.41/images/x/push"),
    ("POST", "/v1.41/images/x/tag?repo=trainyard/trainer"), ("DELETE", "/v1.41/images/x"),
    ("GET", "/v1.41/images/x/get"), ("GET", "/v1.41/images/get"), ("GET", "/v1.41/images/search"),
    ("POST", "/v1.41/images/create?fromImage=trainyard/trainer&tag=dev"),
    ("POST", "/v1.41/auth"), ("GET", "/v1.41/distribution/x/json"),
    # the rest of the engine
    ("POST", "/v1.41/volumes/create"), ("GET", "/v1.41/volumes"), ("DELETE", "/v1.41/volumes/x"),
    ("POST", "/v1.41/networks/create"), ("POST", "/v1.41/networks/x/connect"),
    ("GET", "/v1.41/networks"), ("POST", "/v1.41/plugins/pull?remote=x"), ("GET", "/v1.41/plugins"),
    ("POST", "/v1.41/swarm/init"), ("GET", "/v1.41/secrets"), ("POST", "/v1.41/secrets/create"),
    ("GET", "/v1.41/configs"), ("POST", "/v1.41/services/create"), ("GET", "/v1.41/nodes"),
    ("GET", "/v1.41/tasks"), ("POST", "/v1.41/session"), ("GET", "/v1.41/events"),
    ("GET", "/v1.41/system/df"), ("POST", "/grpc"), ("GET", "/debug/pprof/"),
    # spellings
    ("POST", "/v1.41//containers/create"), ("POST", "//containers/create"),
    ("GET", "/v1.41/containers/x/../../info"), ("GET", "/v1.41/containers/%2e%2e/json"),
    ("GET", "/v1.41/containers/x%2fexec/json"), ("GET", "/v1.41/containers/./json"),
    ("GET", "/v1.41/containers/x/json/"), ("GET", "/v1.41/images/../containers/x/json"),
    ("GET", "/v1.41/v1.41/info"), ("GET", "/v1.41x/info"), ("GET", "/V1.41/info"),
    ("GET", "http://docker/info"), ("GET", "/v1.41/containers/x/json#/exec"),
    ("GET", "/v1.41/containers/x\\exec/json"), ("GET", "/v1.41/containers/x%00/json"),
    ("GET", "/v1.41/info;x"), ("post", "/v1.41/containers/create"),
    # versions whose start takes a body
    ("POST", "/v1.23/containers/x/start"), ("POST", "/v1.39/containers/create"),
    # queries
    ("GET", "/v1.41/containers/x/logs?follow=1&follow=0"), ("GET", "/v1.41/containers/x/logs?a=1"),
    ("GET", "/v1.41/containers/x/logs?stdout=1;stdin=1"),
    ("GET", "/v1.41/containers/x/logs?stdout"),
    ("GET", "/v1.41/containers/x/logs?since=1%0aX: y"),
    ("POST", "/v1.41/containers/create?name=../x"),
    ("GET", "/v1.41/containers/json?filters=[]"),
    ("GET", "/v1.41/containers/json?filters=%7B%22label%22:%20%7B%22a%22:%20false%7D%7D"),
    ("GET", "/v1.41/containers/x/top?ps_args=-o%20$(id)"),
    ("POST", "/v1.41/containers/x/wait?condition=removed%0d%0aX:y"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), REFUSED, ids=lambda value: value)
def test_everything_else_is_refused(method, path):
    with pytest.raises(RefusedError):
        understand(method, path, POLICY)


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
    st.text("/v1.4container%2e_?=&xjson", max_size=40),
)
@example("GET", "/containers/x/json?")
def test_what_goes_on_to_the_engine_is_one_of_its_own_paths(method, path):
    try:
        upstream = understand(method, path, POLICY).upstream(target="FULL")
    except RefusedError:
        return
    place = re.sub(r"^/v1\.\d+(?=/)", "", urlsplit(upstream).path)
    assert place in {o.path.replace("{id}", "FULL").replace("{image}", "FULL") for o in OPERATIONS}


def filters_of(path):
    upstream = understand("GET", path, POLICY).upstream()
    return json.loads(parse_qs(urlsplit(upstream).query)["filters"][0])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, {"label": ["trainyard.managed=true"]}),
        ({"label": ["trainyard.run_id=1"]},
         {"label": ["trainyard.run_id=1", "trainyard.managed=true"]}),
        ({"label": {"a=b": True}, "status": ["running"]},
         {"label": ["a=b", "trainyard.managed=true"], "status": ["running"]}),
    ],
)  # fmt: skip
def test_a_list_shows_our_containers_only(asked, expected):
    tail = f"?filters={quote(json.dumps(asked))}" if asked else ""
    assert filters_of(f"/v1.41/containers/json{tail}") == expected


def test_an_allowed_image_may_be_pulled_where_the_policy_says_so():
    path = "/v1.41/images/create?fromImage=trainyard/trainer&tag=dev"
    assert (
        understand("POST", path, PULL).upstream().endswith("fromImage=trainyard%2Ftrainer&tag=dev")
    )
    for query in (
        "fromImage=alpine&tag=latest", "fromImage=trainyard/trainer", "fromSrc=-",
        "fromImage=trainyard/trainer&tag=dev&fromSrc=http://evil", "tag=dev",
        "fromImage=trainyard/trainer&tag=dev&repo=x", "fromImage=trainyard/trainer&tag=a/b",
    ):  # fmt: skip
        with pytest.raises(RefusedError):
            understand("POST", f"/v1.41/images/create?{query}", PULL)


@pytest.mark.parametrize(
    "headers",
    [
        [("Transfer-Encoding", "chunked")],
        [("Content-Encoding", "gzip")],
        [("Expect", "100-continue")],
        [("Content-Length", "0"), ("content-length", "5")],
    ],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused(headers):
    with pytest.raises(RefusedError):
        refuse_headers(headers, body_allowed=True)


def test_only_create_has_a_body():
    refuse_headers([("Content-Length", "5")], body_allowed=True)
    refuse_headers([("Content-Length", "0")], body_allowed=False)
    with pytest.raises(RefusedError):
        refuse_headers([("Content-Length", "5")], body_allowed=False)
