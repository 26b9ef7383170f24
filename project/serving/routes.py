"""The routes of a server, and the application that has them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from mlflow.version import VERSION
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from lightrail.project.basics.errors import Refusal
from lightrail.project.models.engine import Engine
from lightrail.project.models.generating import TextModel
from lightrail.project.models.in_memory import ReadsImages
from lightrail.project.serving.completions import Completions
from lightrail.project.serving.guard import Access, Guard, answer_of, as_json
from lightrail.project.serving.inputs import MOST_TYPED, body_of, check_sizes, given_inputs, mlflow_inputs, typed_text
from lightrail.project.serving.limits import Limits, Refused
from lightrail.project.serving.metrics import Metrics
from lightrail.project.serving.page import page
from lightrail.project.serving.worker import Worker


@dataclass(frozen=True)
class Served:
    """A model to serve, in the ways it can be used: at least one of both."""

    name: str
    task: str
    """The class of its task, for people."""
    engine: Engine | None
    model: TextModel | None


@final
class Routes:
    """The handlers of requests.

    Args:
        worker: answers them.
    """

    def __init__(self, served: Served, worker: Worker, limits: Limits, metrics: Metrics) -> None:
        self.served, self.worker, self.limits, self.metrics = served, worker, limits, metrics
        self._page, self._page_headers = page()

    async def show_page(self) -> Response:
        """The page for people."""
        return Response(self._page, headers=self._page_headers, media_type="text/html")

    async def ping(self) -> Response:
        """Whether the server is up, as MLflow's scoring server."""
        return Response("\n", media_type="application/json")

    async def version(self) -> Response:
        """The version of MLflow, whose protocol `/invocations` follows."""
        return Response(VERSION, media_type="application/json")

    async def show_metrics(self) -> Response:
        """The figures of the server for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def about(self) -> Response:
        """What the model reads and does."""
        return as_json({"name": self.served.name, "task": self.served.task, **self._abilities()})

    async def predict(self, request: Request) -> Response:
        """Predictions for a text, several texts, rows by column, or images."""
        return await self._predicted(request, given_inputs(await body_of(request, self.limits)))

    async def candidates(self, request: Request) -> Response:
        """What somebody may choose for the letters of a text as it is typed."""
        typed = typed_text(await body_of(request, self.limits))
        if self.served.engine is None or not self.served.engine.offers_candidates:
            raise Refused(404, "this model offers no candidates. Use /predict.")
        return as_json({"candidates": await self._answer(request, [typed], is_typed=True)})

    async def invocations(self, request: Request) -> Response:
        """Predictions in the protocol of MLflow's scoring server."""
        content_type = request.headers.get("content-type", "")
        return await self._predicted(request, mlflow_inputs(await body_of(request, self.limits), content_type))

    async def _predicted(self, request: Request, inputs: list[Any]) -> Response:
        engine = self.served.engine
        if engine is None:
            raise Refused(404, "this model continues texts, and predicts nothing else. Use /v1/completions.")
        check_sizes(inputs, self.limits, are_texts=not isinstance(engine.data, ReadsImages))
        return as_json({"predictions": await self._answer(request, inputs)})

    async def _answer(self, request: Request, inputs: list[Any], *, is_typed: bool = False) -> list[dict[str, Any]]:
        leaving = asyncio.ensure_future(_left(request))
        try:
            return await self.worker.predict(inputs, leaving, is_typed=is_typed)
        finally:
            leaving.cancel()

    def _abilities(self) -> dict[str, Any]:
        engine, model = self.served.engine, self.served.model
        reads: dict[str, Any] | None = None
        if engine is not None and isinstance(engine.data, ReadsImages):
            reads = {"images": engine.data.image_shape()}
        elif engine is not None:
            columns = engine.data.columns("predict")
            reads = {"columns": list(columns.values() if isinstance(columns, Mapping) else columns)}
        chats = model is not None and (model.template is not None or model.tokenizer.has_chat_template)
        return {
            "reads": reads,
            "candidates": {"max_characters": MOST_TYPED} if engine is not None and engine.offers_candidates else None,
            "continues": model is not None,
            "chats": chats,
            "limits": asdict(self.limits),
        }


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def build_app(served: Served, limits: Limits, access: Access) -> ASGIApp:
    """Return the application that serves a model."""
    metrics = Metrics(lambda: worker.num_waiting)
    worker = Worker(served.engine, served.model, limits, metrics.together)

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.close()

    app = FastAPI(title=served.name, version=VERSION, lifespan=working, docs_url=None, redoc_url=None)
    routes, texts = Routes(served, worker, limits, metrics), Completions(served.name, worker, limits)
    app.add_api_route("/", routes.show_page, include_in_schema=False)
    for path, handler in {
        "/ping": routes.ping,
        "/health": routes.ping,
        "/version": routes.version,
        "/metrics": routes.show_metrics,
        "/about": routes.about,
        "/v1/models": texts.models,
    }.items():
        app.add_api_route(path, handler)
    for path, post, example in (
        ("/predict", routes.predict, {"texts": ["..."]}),
        ("/candidates", routes.candidates, {"text": "..."}),
        ("/invocations", routes.invocations, {"inputs": ["..."]}),
        ("/v1/completions", texts.complete, {"model": served.name, "prompt": "..."}),
        ("/v1/chat/completions", texts.chat, {"model": served.name, "messages": [{"role": "user", "content": "..."}]}),
    ):
        content = {"application/json": {"schema": {"type": "object"}, "example": example}}
        app.add_api_route(path, post, methods=["POST"], openapi_extra={"requestBody": {"content": content}})
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return Guard(app, access, limits, metrics)


async def _refusal(_: Request, error: Exception) -> Response:
    return answer_of(error)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such route; /openapi.json lists them.", 405: "this route has another method."}
    return answer_of(Refused(error.status_code, words.get(error.status_code, str(error.detail))))


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refused: _refusal,
    Refusal: _refusal,
    HTTPException: _no_route,
    Exception: _refusal,  # the guard logs it
}
