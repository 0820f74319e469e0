from .app import create_app
from .server import serve
from .service import Service
from .settings import ServeSettings

__all__ = ["ServeSettings", "Service", "create_app", "serve"]
