"""The verb `dashboard`: a study in the browser, by optuna-dashboard on this machine or as a workspace in W&B."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from kdexp.errors import ConfigError
from kdexp.sweeps.reading import open_for_reading

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def show_study(cfg: Mapping[str, Any]) -> None:
    """Serves the study until Ctrl-C, or makes its W&B workspace. Raises StudyError and ConfigError with what to do."""
    studies = Path(cfg["paths"]["output_root"]) / "studies"
    given = {name: cfg[name] for name in ("entity", "project")}
    if cfg["target"] == "wandb":
        from kdexp.sweeps.workspace import publish

        publish(cfg["study"], studies, cfg["storage"], **given)
        return
    without_effect = [name for name, value in given.items() if value is not None]
    if without_effect:
        raise ConfigError([f"{name}: has no effect without target=wandb" for name in without_effect])
    _serve(cfg["study"], studies, cfg["storage"], cfg["port"])


def _serve(study_name: str, studies: Path, url: str | None, port: int) -> None:
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise ConfigError(
            "dashboard needs the package optuna-dashboard; install it with pip install 'kdexp[dashboard]'"
        ) from None
    storage = open_for_reading(study_name, studies, url)
    number = storage.get_study_id_from_name(study_name)
    with _listening(read_only(wsgi(storage)), port) as server:
        try:
            log.info("%s: http://%s:%d/dashboard/studies/%d", study_name, HOST, server.server_port, number)
            log.info("only to look at, and only from this machine; Ctrl-C ends it")
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")


def read_only(application: Application) -> Application:
    """The same application without what changes a study: every request but GET and HEAD is refused."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        headers = [("Allow", "GET, HEAD"), ("Content-Type", "application/json")]
        start_response("405 Method Not Allowed", headers)
        return [b'{"reason": "kdexp shows studies and changes none"}']

    return guarded


def _listening(application: Application, port: int) -> WSGIServer:
    try:
        return make_server(HOST, port, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise ConfigError(
            f"port={port}: {HOST} does not give it ({error.strerror}); choose another, or port=0 for any free one"
        ) from None


class _Server(ThreadingMixIn, WSGIServer):
    """A thread per request; those still at work do not hold up the end."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Without a line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
