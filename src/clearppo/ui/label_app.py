"""The page of `clearppo label`: a desk behind HTTP, for any number of labellers at once.

    GET  /api/label                       what is labelled, and by whom so far
    GET  /api/label/state?labeller=ann    what ann has before her, her progress, everybody's agreement; when every item
                                          is decided by somebody, also which model or file is preferred
    POST /api/label/decide                {"labeller", "item", "verdict", "place", "note", "seconds", "nonce"}
    POST /api/label/undo                  {"labeller", "nonce"}
    POST /api/label/skip                  {"labeller", "item"}

Each POST answers with the state after it. What a request says twice (the same nonce) is done once.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clearppo.data.files import article
from clearppo.ui.label_agreement import Agreement
from clearppo.ui.label_desk import Desk, Shown, labeller_name
from clearppo.web import RefusedError, add_pages, base_app, json_body, require_packages, require_same_origin

STATIC = Path(__file__).with_name("static")
MAX_BYTES = 64 * 1024
LONGEST_NONCE = 64


def require_server() -> None:
    """Raises ConfigError without FastAPI and uvicorn."""
    require_packages("clearppo label", "view", {"fastapi": "FastAPI", "uvicorn": "uvicorn"})


def make_label_app(desk: Desk, *, source: str, output: str, following: str) -> Any:
    """The FastAPI application. `source`, `output` and `following`, the command that learns from it, are shown."""
    from fastapi import Request
    from starlette.concurrency import run_in_threadpool

    app = base_app()

    async def body(request: Request) -> dict[str, Any]:
        require_same_origin(request)
        return await json_body(request, max_bytes=MAX_BYTES, mend="shorten the note")

    async def about() -> dict[str, Any]:
        people = (await run_in_threadpool(desk.agreement)).people
        names = [person.labeller for person in people]
        return {"source": source, "output": output, "following": following, "labellers": names}

    async def state(labeller: str) -> dict[str, Any]:
        return await run_in_threadpool(_state, desk, labeller_name(labeller))

    async def decide(request: Request) -> dict[str, Any]:
        said = await body(request)
        return await run_in_threadpool(_decide, desk, said)

    async def undo(request: Request) -> dict[str, Any]:
        said = await body(request)
        return await run_in_threadpool(_undo, desk, said)

    async def skip(request: Request) -> dict[str, Any]:
        said = await body(request)
        return await run_in_threadpool(_skip, desk, said)

    app.get("/api/label")(about)
    app.get("/api/label/state")(state)
    for name, action in {"decide": decide, "undo": undo, "skip": skip}.items():
        app.post(f"/api/label/{name}")(action)
    add_pages(app, STATIC, index="label.html")
    return app


def _decide(desk: Desk, said: Mapping[str, Any]) -> dict[str, Any]:
    labeller = _name(said)
    place = said.get("place")
    if place is not None and (isinstance(place, bool) or not isinstance(place, int)):
        raise RefusedError(422, f"`place` is {article(place)}; it must be a whole number or null")
    seconds = said.get("seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise RefusedError(422, f"`seconds` is {article(seconds)}; it must be a number")
    written = desk.decide(
        labeller,
        _text(said, "item"),
        _text(said, "verdict"),
        place,
        note=_text(said, "note", ""),
        seconds=min(float(seconds), 1e9) if abs(seconds) < 1e300 else 0.0,
        nonce=_nonce(said),
    )
    return {"written": written, **_state(desk, labeller)}


def _undo(desk: Desk, said: Mapping[str, Any]) -> dict[str, Any]:
    labeller = _name(said)
    taken = desk.undo(labeller, nonce=_nonce(said))
    return {"note": taken.note if taken else "", **_state(desk, labeller)}


def _skip(desk: Desk, said: Mapping[str, Any]) -> dict[str, Any]:
    labeller = _name(said)
    desk.skip(labeller, _text(said, "item"))
    return _state(desk, labeller)


def _state(desk: Desk, labeller: str) -> dict[str, Any]:
    shown = desk.show(labeller)
    progress = desk.progress(labeller)
    # Not before: whoever knows what is preferred so far may look for it.
    is_over = progress.labelled == progress.items
    return {
        "labeller": labeller,
        "item": shown and _seen(shown),
        "progress": asdict(progress),
        "agreement": _agreement(desk.recent_agreement()),
        "results": [asdict(duel) | {"settled": duel.is_settled} for duel in desk.results()] if is_over else None,
    }


def _seen(shown: Shown) -> dict[str, Any]:
    """What goes to the page: nothing by which answers could be told apart but their texts, and which are cut short."""
    return {"item": shown.item, "prompt": shown.prompt, "answers": shown.answers, "cut": shown.cut}


def _agreement(found: Agreement) -> dict[str, Any] | None:
    """None as long as there are not two people who share an item."""
    if not found.pairs:
        return None
    return {
        "labellers": len(found.people),
        "items": found.n_items,
        "equal": found.equal,
        "alpha": found.alpha,
        "kappa": found.pairs[0].kappa if len(found.pairs) == 1 else None,
    }


def _name(said: Mapping[str, Any]) -> str:
    return labeller_name(_text(said, "labeller"))


def _nonce(said: Mapping[str, Any]) -> str:
    nonce = _text(said, "nonce")
    if not nonce.isprintable() or not nonce.isascii() or not 8 <= len(nonce) <= LONGEST_NONCE:
        raise RefusedError(422, f"`nonce` must be 8 to {LONGEST_NONCE} characters of ASCII, another one each time")
    return nonce


def _text(said: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = said.get(name, default)
    if not isinstance(value, str):
        seen = "missing" if name not in said else article(value)
        raise RefusedError(422, f"`{name}` is {seen}; it must be a string")
    return value
