from .app import create_app
from .score_request import BadRequest
from .scoring import OtherSnapshot, Scorer, Scores
from .server import serve
from .service import Service
from .settings import ServeSettings

__all__ = [
    "BadRequest",
    "OtherSnapshot",
    "Scorer",
    "Scores",
    "ServeSettings",
    "Service",
    "create_app",
    "serve",
]
