"""How kernels are started, and what is kept of the outputs."""

import os
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.core import settings
from course_utils.runner import kernels


def test_a_kernel_is_this_python_in_the_given_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    spec = kernels.ThisPython().kernel_spec
    assert spec.argv[0] == sys.executable
    assert spec.env["OMP_WAIT_POLICY"] == "ACTIVE"
    assert str(settings.PROJECT) in spec.env["PYTHONPATH"].split(os.pathsep)
    asks = "import os, sys\nprint(*map(os.environ.get, ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY')), os.getcwd())"
    nb = new_notebook(cells=[new_code_cell(asks)])
    kernels.Client(nb, str(tmp_path)).execute(env={**os.environ, "OMP_NUM_THREADS": "3"})
    assert nb.cells[0].outputs[0].text == f"3 ACTIVE {tmp_path}\n"


# What is printed


def redrawn(text):
    """What a terminal shows, slowly: as nbclient's expression for carriage returns, and its intent for backspaces."""
    text, before = re.sub(r".*\r(?=[^\n])", "", text), None
    while text != before:
        text, before = re.sub(r"[^\n\b]\x08|^\x08", "", text, flags=re.MULTILINE), text
    return text


pieces = st.lists(st.text("ab\r\n\b", max_size=12))


def printed(texts):
    whole = kernels.Printed()
    for text in texts:
        whole.add(text)
    return str(whole)


@given(pieces)
def test_a_text_is_what_a_terminal_shows(texts):
    assert printed(texts) == redrawn("".join(texts))


@given(pieces, st.integers(4, 30))
def test_bars_are_redrawn_however_long_they_run(texts, longest):
    """Only the length of what is shown counts, and it does not matter in which pieces it came."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LONGEST", longest)
        for bar in ("\r", "\b" * 2):
            assert printed([*texts, "\n", *[f"{bar}{n:02}" for n in range(50)]])[-2:] == "49"
            assert printed([f"{bar}{n:02}" for n in range(50)]) == "49"


@given(st.lists(st.text("ab\n", max_size=40)), st.integers(2, 30))
def test_a_long_text_keeps_its_ends_and_says_how_much_is_left_out(texts, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LONGEST", longest)
        whole, shown = "".join(texts), printed(texts)
    if len(whole) <= longest:
        assert shown == whole
        return
    head, count, tail = re.fullmatch(r"(?s)(.*)\n\[… ([\d,]+) characters are left out .* …\]\n(.*)", shown).groups()
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert len(head) + len(tail) + int(count.replace(",", "")) == len(whole)
    assert longest - 1 <= len(head) + len(tail) <= longest


@pytest.mark.parametrize("text", ["x", "\r", "\b", "\n", "x\r", "x\b", "\r\n", "\r\b", "\x1b[31m", "0.125, "])
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_megabyte_takes_no_time_and_little_room(text, size):
    """In one piece or in many; a regular expression took minutes."""
    whole = text * (1_000_000 // len(text))
    began = time.monotonic()
    shown = printed(whole[start : start + size] for start in range(0, len(whole), size))
    assert time.monotonic() - began < 5
    assert len(shown) < kernels.LONGEST + 200


def message(kind, **content):
    if kind in ("display_data", "execute_result"):
        content = {"metadata": {}, "execution_count": 1, "data": content}
    return {"msg_type": kind, "header": {"msg_type": kind}, "parent_header": {"msg_id": "1"}, "content": content}


def outputs(messages):
    """The outputs of a cell for which a kernel sends these."""
    client, outs = kernels.Client(new_notebook(), "."), []
    client.clear_before_next_output = False
    for sent in messages:
        client.output(outs, sent, None, 0)
    client._finish_text()
    return outs


STREAMS = {"o": "stdout", "e": "stderr"}


@given(st.text("oed"))
def test_outputs_stay_in_order_and_neighbours_of_one_name_are_joined(order):
    sent = [
        message("display_data") if kind == "d" else message("stream", name=STREAMS[kind], text=kind) for kind in order
    ]
    outs = outputs(sent)
    assert [out.get("text", "d") for out in outs] == re.findall("o+|e+|d", order)
    assert all(out.name == STREAMS[out.text[0]] for out in outs if "text" in out)


def test_no_text_of_an_output_is_endless():
    long = "x" * 1_000_000
    stream, result, error = outputs(
        [
            message("stream", name="stdout", text=long),
            message("execute_result", **{"text/plain": long, "image/png": long}),
            message("error", ename="E", evalue=long, traceback=["a", long]),
        ]
    )
    assert result.data["image/png"] == long, "a part of a picture is none"
    for text in (stream.text, result.data["text/plain"], error.evalue, error.traceback[1]):
        assert "900,000 characters are left out here" in text
        assert len(text) < kernels.LONGEST + 200
    assert error.traceback[0] == "a"
