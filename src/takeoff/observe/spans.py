"""Sends traces by OpenTelemetry's protocol.

The spans of a request are made when it has ended, so no token waits for them. A thread sends them in
batches; what can't be sent, or comes faster than it can be, is lost, and the log says so. OpenTelemetry's own
variables hold: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and their like.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from takeoff.observe.traces import Stage

PATH = "/v1/traces"  # OpenTelemetry Protocol Exporter 1.x, "Endpoint URLs for OTLP/HTTP"
CLOSING_S = 2.0


class Spans:
    """Of all requests of a server. `close` must be called."""

    def __init__(self, url: str) -> None:
        """`url` is a collector's, without the path."""
        ours = Resource({"service.name": "takeoff", "service.version": version("takeoff-server")})
        resource = ours.merge(OTELResourceDetector().detect())
        self._sending = BatchSpanProcessor(OTLPSpanExporter(url.rstrip("/") + PATH))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._sending)
        self._tracer = provider.get_tracer("takeoff")
        self._propagator = TraceContextTextMapPropagator()

    def tell(self, request: Stage, headers: Mapping[str, str]) -> None:
        """Send a request's stages, in the trace that its headers name, if they do (W3C Trace Context)."""
        epoch_ns = time.time_ns() - time.monotonic_ns()
        self._add(request, self._propagator.extract(headers), epoch_ns, SpanKind.SERVER)

    def close(self) -> None:
        """Send what waits, as far as it can be in a moment."""
        closing = threading.Thread(target=self._sending.shutdown, name="close traces", daemon=True)
        closing.start()  # as it may wait for half a minute
        closing.join(CLOSING_S)

    def _add(self, stage: Stage, context: Context, epoch_ns: int, kind: SpanKind) -> None:
        span = self._tracer.start_span(
            stage.name, context, kind, stage.facts, start_time=epoch_ns + round(stage.began_at * 1e9)
        )
        if stage.has_failed:
            span.set_status(StatusCode.ERROR)
        inside = set_span_in_context(span, context)
        for part in stage.parts:
            self._add(part, inside, epoch_ns, SpanKind.INTERNAL)
        span.end(epoch_ns + round(stage.ended_at * 1e9))
