"""The metrics of the service: names, units, labels, and how they are recorded.

Recording is arithmetic on dictionaries and takes well under a microsecond. ``flush`` moves the result into
prometheus_client once a second, and before ``/metrics`` is read. prometheus_client adds up the worker processes through
PROMETHEUS_MULTIPROC_DIR. ``bentoml serve`` sets it before it starts them, and prometheus_client reads it on import,
which is why it is imported late.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from service.scheduling.job import InferenceRequest

UNKNOWN = "unknown"  # the model label of requests without a loaded bundle

# From the batch of a small model on one core (0.2 ms) to the longest deadline, in factors of at most 3.
SECONDS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
# One token of a small model takes 10 µs.
TOKEN_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, *SECONDS)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it is hashed for every record
class Metric:
    """One metric family. ``merge`` says how the gauges of several workers are combined."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    about: str
    buckets: tuple[float, ...] = ()
    merge: Literal["livesum", "livemax"] = "livesum"


def _counter(name: str, labels: tuple[str, ...], about: str) -> Metric:
    return Metric(name=name, kind="counter", labels=labels, about=about)


def _histogram(name: str, labels: tuple[str, ...], buckets: tuple[float, ...], about: str) -> Metric:
    return Metric(name=name, kind="histogram", labels=labels, about=about, buckets=buckets)


def _gauge(name: str, labels: tuple[str, ...], about: str, merge: Literal["livesum", "livemax"] = "livesum") -> Metric:
    return Metric(name=name, kind="gauge", labels=labels, about=about, merge=merge)


M = ("model", "version")
REQUESTS = _counter("seqserve_requests_total", ("route", *M, "outcome"), "Requests by outcome: ok, or the error.")
REQUEST_SECONDS = _histogram(
    "seqserve_request_seconds", ("route", *M), SECONDS, "Seconds from a request to its answer."
)
QUEUE_SECONDS = _histogram("seqserve_queue_seconds", M, SECONDS, "Seconds that an input was queued.")
COMPUTE_SECONDS = _histogram("seqserve_compute_seconds", M, SECONDS, "Seconds that the model took for one batch.")
BATCH_ITEMS = _histogram("seqserve_batch_items", M, ROWS, "Inputs in one batch.")
PADDING_WASTE = _histogram("seqserve_padding_waste_ratio", M, SHARES, "Padding over all tokens of a batch.")
RELEASED = _counter("seqserve_batches_released_total", (*M, "reason"), "Batches by the reason of their release.")
PROCESSED = _counter("seqserve_processed_tokens_total", M, "Tokens of processed inputs, without padding.")
PADDED = _counter("seqserve_padded_tokens_total", M, "Tokens of processed inputs, with padding.")
QUEUE_ITEMS = _gauge("seqserve_queue_items", M, "Inputs that are queued.")
ACTIVE_SLOTS = _gauge("seqserve_active_slots", M, "Texts that are being generated.")
SATURATION = _gauge(
    "seqserve_saturation_ratio",
    M,
    "Share of the queue or of the decoding slots that is used, whichever is larger, from 0 to 1, in the worker where it"
    " is highest.",
    "livemax",
)
ACTIVE_STREAMS = _gauge("seqserve_active_streams", M, "Open event streams and WebSockets.")
OOV_WORDS = _counter(
    "seqserve_oov_words_total",
    (*M, "source"),
    "Out-of-vocabulary words by the source of their vector: cache or speller.",
)
GENERATED = _counter("seqserve_generated_tokens_total", M, "Generated tokens.")
STEP_ROWS = _histogram("seqserve_step_rows", M, ROWS, "Texts in one decoding step.")
STEP_SECONDS = _histogram("seqserve_step_seconds", M, TOKEN_SECONDS, "Seconds that the model took for a decoding step.")
FIRST_TOKEN = _histogram("seqserve_first_token_seconds", M, SECONDS, "Seconds from a request to its first token.")
INTER_TOKEN = _histogram("seqserve_inter_token_seconds", M, TOKEN_SECONDS, "Seconds between two tokens of a text.")
REJECTED = _counter("seqserve_rejected_total", ("reason",), "Refused requests by error.")
BUNDLE = _gauge("seqserve_bundle_info", (*M, "variant"), "1: the bundle is loaded. 0: it was unloaded.", "livemax")
LOAD_SECONDS = _gauge("seqserve_bundle_load_seconds", M, "Seconds to load and self-test a bundle.", "livemax")
WORKERS = _gauge("seqserve_workers", ("state",), "Workers by state: ready, starting, unresponsive, or missing.")
WORKER_STARTS = _counter(
    "seqserve_worker_starts_total",
    ("reason",),
    "Starts of workers: with the service, or to replace one that ended by itself, by a signal, or by the watchdog.",
)
WORKER_MEMORY = _gauge("seqserve_worker_memory_bytes", ("worker",), "Resident memory of a worker.")
HEARTBEAT_AGE = _gauge(
    "seqserve_worker_heartbeat_age_seconds", ("worker",), "Seconds since a worker's last heartbeat, rounded up."
)
LOOP_LAG = _histogram("seqserve_event_loop_lag_seconds", (), SECONDS, "Seconds by which a heartbeat was late.")
METRICS = (
    *(REQUESTS, REQUEST_SECONDS, REJECTED, QUEUE_SECONDS, COMPUTE_SECONDS, BATCH_ITEMS, PADDING_WASTE, RELEASED),
    *(
        PROCESSED,
        PADDED,
        OOV_WORDS,
        QUEUE_ITEMS,
        SATURATION,
        ACTIVE_SLOTS,
        GENERATED,
        STEP_ROWS,
        STEP_SECONDS,
        FIRST_TOKEN,
        INTER_TOKEN,
    ),
    *(ACTIVE_STREAMS, BUNDLE, LOAD_SECONDS),
    *(WORKERS, WORKER_STARTS, WORKER_MEMORY, HEARTBEAT_AGE, LOOP_LAG),
)

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One finished request, as the access log and the spans describe it. It has no client data except ids.

    ``model`` is the name of a bundle or ``unknown``, and ``version`` the one that answered, or "". ``key`` is the name
    of an API key, ``traceparent`` the header or "".
    """

    request: "InferenceRequest"
    method: str
    model: str
    version: str
    outcome: str
    status: int
    key: str
    sent_bytes: int
    started_s: float  # on the monotonic clock, like `ended_s`
    ended_s: float
    traceparent: str


class _Histogram:
    """The values of one histogram series since the last flush."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last bucket is +Inf
        self.total = 0.0


class Telemetry:
    """The metrics of one worker process. Not thread-safe."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[Metric, Labels], float] = defaultdict(float)
        self.gauges: dict[tuple[Metric, Labels], float] = {}
        self._histograms: dict[tuple[Metric, Labels], _Histogram] = {}
        self._oov_words: dict[Labels, Callable[[], tuple[int, int]]] = {}
        self._sampled: dict[tuple[Metric, Labels], Callable[[], float]] = {}
        self._models: set[str] = set()
        self._streams: defaultdict[Labels, int] = defaultdict(int)
        self._families: dict[Metric, Any] = {}
        self.registry: CollectorRegistry | None = None

    def request(self, route: str, model: str, version: str, outcome: str, total_s: float) -> None:
        """Count one finished request. ``route`` must be a pattern, and ``model`` a known name, never a client's text.

        ``version`` is that of the bundle that answered, "" if none did.
        """
        self._counts[REQUESTS, (route, model, version, outcome)] += 1
        self.observe(REQUEST_SECONDS, (route, model, version), total_s)

    def known(self, model: str) -> str:
        """Return the name in ``model`` if a bundle has it, otherwise UNKNOWN: clients must not create series."""
        name = model.partition("@")[0]
        return name if name in self._models else UNKNOWN

    def rejected(self, reason: str) -> None:
        self._counts[REJECTED, (reason,)] += 1

    def streams(self, model: str, version: str, change: int) -> None:
        """Count streams that started (1) or ended (-1)."""
        self._streams[model, version] += change
        self.gauges[ACTIVE_STREAMS, (model, version)] = self._streams[model, version]

    def bundle(self, model: str, version: str, variant: str, load_s: float) -> None:
        """Record a loaded bundle, whose name is a label from now on."""
        self._models.add(model)
        self.gauges[BUNDLE, (model, version, variant)] = 1
        self.gauges[LOAD_SECONDS, (model, version)] = load_s

    def bundle_unloaded(self, model: str, version: str, variant: str) -> None:
        """Record that a bundle answers nothing any more. prometheus_client cannot remove its series."""
        self.gauges[BUNDLE, (model, version, variant)] = 0
        self._oov_words.pop((model, version), None)
        for metric in (SATURATION, QUEUE_ITEMS, ACTIVE_SLOTS):
            if self._sampled.pop((metric, (model, version)), None) is not None:
                self.gauges[metric, (model, version)] = 0

    def load(
        self,
        model: str,
        version: str,
        *,
        saturation: Callable[[], float],
        queue_items: Callable[[], int],
        active_slots: Callable[[], int] | None = None,
    ) -> None:
        """Record the load of a model at each flush: its saturation, from 0 to 1, its queue, and its texts."""
        labels = (model, version)
        self._sampled |= {(SATURATION, labels): saturation, (QUEUE_ITEMS, labels): queue_items}
        if active_slots is not None:
            self._sampled[ACTIVE_SLOTS, labels] = active_slots

    def oov_words(self, model: str, version: str, counts: Callable[[], tuple[int, int]]) -> None:
        """Count the out-of-vocabulary words of a model. ``counts``: those since the last call, cached and spelled."""
        self._oov_words[model, version] = counts

    def count(self, metric: Metric, labels: Labels, amount: float = 1) -> None:
        self._counts[metric, labels] += amount

    def observe(self, metric: Metric, labels: Labels, value: float, times: int = 1) -> None:
        """Add ``times`` equal values to a histogram."""
        histogram = self._histogram(metric, labels)
        histogram.counts[bisect_left(histogram.bounds, value)] += times
        histogram.total += value * times

    def observe_each(self, metric: Metric, labels: Labels, values: Sequence[float]) -> None:
        """Add values to a histogram."""
        histogram = self._histogram(metric, labels)
        counts, bounds = histogram.counts, histogram.bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        histogram.total += sum(values)

    def _histogram(self, metric: Metric, labels: Labels) -> _Histogram:
        histogram = self._histograms.get((metric, labels))
        if histogram is None:
            histogram = self._histograms[metric, labels] = _Histogram(metric.buckets)
        return histogram

    def flush(self) -> None:
        """Move the recorded values into prometheus_client. After an error, no value is counted twice."""
        for labels, counts in self._oov_words.items():
            for source, words in zip(("cache", "speller"), counts(), strict=True):
                if words:
                    self.count(OOV_WORDS, (*labels, source), words)
        for series, sample in self._sampled.items():
            self.gauges[series] = sample()
        while self._counts:
            (metric, labels), count = self._counts.popitem()
            self._series(metric, labels).inc(count)
        while self.gauges:
            (metric, labels), value = self.gauges.popitem()
            self._series(metric, labels).set(value)
        while self._histograms:
            (metric, labels), recorded = self._histograms.popitem()
            series = self._series(metric, labels)
            # observe() takes one value at a time, and 2 µs for each of thousands a second. A test compares the result
            # of writing to the two private fields with that of observe().
            series._sum.inc(recorded.total)
            for bucket, count in zip(series._buckets, recorded.counts, strict=True):
                if count:
                    bucket.inc(count)

    def _series(self, metric: Metric, labels: Labels) -> Any:
        family = self._family(metric)
        return family.labels(*labels) if labels else family

    def _family(self, metric: Metric) -> Any:
        """Return the prometheus_client object of a metric, created on first use."""
        family = self._families.get(metric)
        if family is None:
            import prometheus_client as prometheus

            if self.registry is None:
                self.registry = prometheus.CollectorRegistry()
            kinds: dict[str, tuple[Any, dict[str, Any]]] = {
                "counter": (prometheus.Counter, {}),
                "gauge": (prometheus.Gauge, {"multiprocess_mode": metric.merge}),
                "histogram": (prometheus.Histogram, {"buckets": metric.buckets}),
            }
            make, options = kinds[metric.kind]
            family = make(metric.name, metric.about, metric.labels, registry=self.registry, **options)
            self._families[metric] = family
        return family


class ModelMetrics:
    """What the schedulers of one version of a model record."""

    def __init__(self, telemetry: Telemetry, model: str, version: str) -> None:
        self._telemetry = telemetry
        self._labels = (model, version)

    def batch(
        self,
        *,
        items: int,
        padded_tokens: int,
        real_tokens: int,
        reason: str,
        compute_s: float,
        queue_s: Sequence[float] = (),
    ) -> None:
        """Record one batch of whole sequences, or of prompts. ``queue_s``: how long each item waited."""
        telemetry, labels = self._telemetry, self._labels
        telemetry.count(RELEASED, (*labels, reason))
        telemetry.count(PADDED, labels, padded_tokens)
        telemetry.count(PROCESSED, labels, real_tokens)
        telemetry.observe(BATCH_ITEMS, labels, items)
        telemetry.observe(COMPUTE_SECONDS, labels, compute_s)
        if padded_tokens:
            telemetry.observe(PADDING_WASTE, labels, (padded_tokens - real_tokens) / padded_tokens)
        telemetry.observe_each(QUEUE_SECONDS, labels, queue_s)

    def prefill(self, *, rows: int, padded_tokens: int, real_tokens: int, compute_s: float) -> None:
        """Record one call that read prompts."""
        self.batch(
            items=rows, padded_tokens=padded_tokens, real_tokens=real_tokens, reason="prefill", compute_s=compute_s
        )

    def steps(self, *, rows: int, count: int, compute_s: float) -> None:
        """Record ``count`` decoding steps that took ``compute_s`` together."""
        self._telemetry.observe(STEP_ROWS, self._labels, rows, count)
        self._telemetry.observe(STEP_SECONDS, self._labels, compute_s / count, count)

    def queue_time(self, seconds: float) -> None:
        """Record how long one sequence waited for its slot."""
        self._telemetry.observe(QUEUE_SECONDS, self._labels, seconds)

    def first_token(self, seconds: float) -> None:
        """Record how long one sequence waited for its first token."""
        self._telemetry.observe(FIRST_TOKEN, self._labels, seconds)

    def tokens(self, *, count: int, interval_s: float) -> None:
        """Count generated tokens. ``interval_s``: since the tokens before them; 0 for first tokens."""
        self._telemetry.count(GENERATED, self._labels, count)
        if interval_s:
            self._telemetry.observe(INTER_TOKEN, self._labels, interval_s, count)
