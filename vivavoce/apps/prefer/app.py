"""The page of `vivavoce prefer` and what it asks for: trials by number, never which takes they are of."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse

from vivavoce.apps.prefer.trials import Ballot, clip_file
from vivavoce.apps.server.access import Access
from vivavoce.apps.server.body import BodyLimit
from vivavoce.apps.server.limits import Limits, Refusal
from vivavoce.apps.server.pages import HEADERS
from vivavoce.train.preferences import ANSWERS, CRITERIA

PAGE = Path(str(resources.files("vivavoce.apps.prefer") / "page"))
_BODY_MIB = 0.01


def create_app(ballot: Ballot, clips: Path) -> FastAPI:
    """The application over a ballot and the folder of its clips. Of this machine only, whatever name it is called by."""
    app = FastAPI(title="vivavoce prefer", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, limits=Limits(upload_mib=_BODY_MIB))
    access = Access()

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status)

    async def allowed(request: Request) -> None:
        access.check(request)

    guarded = [Depends(allowed)]

    def state() -> dict[str, int]:
        return {"trials": len(ballot.trials), "answered": ballot.answered, "next": ballot.following}

    def known(number: int) -> int:
        if not 0 <= number < len(ballot.trials):
            raise Refusal(404, "not_found", f"there is no trial {number}: they are 0 to {len(ballot.trials) - 1}")
        return number

    @app.get("/v1/state", dependencies=guarded)
    def get_state() -> dict[str, int]:
        return state()

    @app.get("/v1/trials/{number}/{side}", dependencies=guarded, response_class=FileResponse)
    def get_clip(number: int, side: str) -> FileResponse:
        if side not in ("A", "B"):
            raise Refusal(404, "not_found", f"a trial has the clips A and B, not {side[:20]!r}")
        trial = ballot.trials[known(number)]
        file = clip_file(clips, trial.example, trial.takes["AB".index(side)])
        return FileResponse(file, media_type="video/mp4", headers={"Cache-Control": "no-store"})

    @app.post("/v1/trials/{number}", dependencies=guarded)
    async def post_answer(number: int, request: Request) -> dict[str, int]:
        given = answers(await request.body())
        ballot.answer(known(number), **given)
        return state()

    @app.get("/", response_class=FileResponse, dependencies=guarded)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    @app.get("/page/{name}", response_class=FileResponse, dependencies=guarded)
    def page_file(name: str) -> FileResponse:
        if name not in {file.name for file in PAGE.iterdir()}:
            raise Refusal(404, "not_found", "the page has no such file")
        return FileResponse(PAGE / name, headers=HEADERS)

    return app


def answers(body: bytes) -> dict[str, Any]:
    """What was sent, if it is one answer to each criterion and nothing else."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_request", f"the answer is no JSON ({error})") from error
    whole = isinstance(given, dict) and given.keys() == set(CRITERIA)
    if not whole or any(given[criterion] not in ANSWERS for criterion in CRITERIA):
        raise Refusal(400, "bad_request", f"send {' and '.join(CRITERIA)}, each of them one of {', '.join(ANSWERS)}")
    return given
