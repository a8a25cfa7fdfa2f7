"""What is recorded comes out of prometheus_client."""

from pathlib import Path

import prometheus_client as prometheus
import pytest

from service.engine import Engine
from service.settings import Settings
from service.telemetry import METRICS, SECONDS, ModelMetrics, Telemetry
from tests.support.engines import inference_request


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    telemetry.flush()
    assert telemetry.registry is not None
    return telemetry.registry.get_sample_value(name, labels)


def test_a_batch_is_recorded() -> None:
    telemetry = Telemetry()
    ModelMetrics(telemetry, "m", "1").batch(
        items=3, padded_tokens=40, real_tokens=30, reason="rows", compute_s=0.002, queue_s=[0.001, 0.002, 0.003]
    )
    assert value(telemetry, "seqserve_batch_items_sum", model="m", version="1") == 3
    assert value(telemetry, "seqserve_padding_waste_ratio_sum", model="m", version="1") == 0.25
    assert value(telemetry, "seqserve_batches_released_total", model="m", version="1", reason="rows") == 1
    assert value(telemetry, "seqserve_queue_seconds_count", model="m", version="1") == 3
    assert value(telemetry, "seqserve_processed_tokens_total", model="m", version="1") == 30


async def test_oov_words_are_counted_by_the_source_of_their_vector(tiny_kinds: Path) -> None:
    telemetry = Telemetry()
    engine = Engine.load(Settings(bundles=(str(tiny_kinds / "tiny-speller"),), device="cpu"), telemetry)
    labels = {"model": "tiny-speller", "version": "1", "source": "cache"}
    telemetry.flush()  # the words of the self-test
    cached = value(telemetry, "seqserve_oov_words_total", **labels) or 0.0
    spelled = value(telemetry, "seqserve_oov_words_total", **labels | {"source": "speller"}) or 0.0
    for text in ("the yak", "yak yak"):
        await engine.tag(text, request=inference_request())
    assert value(telemetry, "seqserve_oov_words_total", **labels) == cached + 2
    assert value(telemetry, "seqserve_oov_words_total", **labels | {"source": "speller"}) == spelled + 1
    await engine.drain(5)


def test_an_empty_batch_has_no_padding_waste() -> None:
    telemetry = Telemetry()
    ModelMetrics(telemetry, "m", "1").batch(items=1, padded_tokens=0, real_tokens=0, reason="rows", compute_s=0.001)
    assert value(telemetry, "seqserve_padding_waste_ratio_count", model="m", version="1") is None


def test_decoding_steps_and_tokens_are_recorded() -> None:
    telemetry = Telemetry()
    metrics = ModelMetrics(telemetry, "m", "1")
    metrics.steps(rows=5, count=2, compute_s=0.0001)
    metrics.tokens(count=5, interval_s=0.0)
    metrics.first_token(0.004)
    metrics.tokens(count=64, interval_s=0.00002)
    assert value(telemetry, "seqserve_step_rows_sum", model="m", version="1") == 10
    assert value(telemetry, "seqserve_step_seconds_bucket", model="m", version="1", le="5e-05") == 2
    assert value(telemetry, "seqserve_generated_tokens_total", model="m", version="1") == 69
    assert value(telemetry, "seqserve_first_token_seconds_count", model="m", version="1") == 1
    assert value(telemetry, "seqserve_inter_token_seconds_count", model="m", version="1") == 64


def test_a_gauge_keeps_its_value_after_a_flush() -> None:
    telemetry = Telemetry()
    telemetry.load("m", "1", saturation=lambda: 0.5, queue_items=lambda: 7, active_slots=lambda: 3)
    telemetry.flush()
    assert value(telemetry, "seqserve_queue_items", model="m", version="1") == 7
    assert value(telemetry, "seqserve_active_slots", model="m", version="1") == 3


def test_counters_add_up_over_flushes() -> None:
    telemetry = Telemetry()
    for _ in range(3):
        telemetry.rejected("queue-full")
        telemetry.flush()
    assert value(telemetry, "seqserve_rejected_total", reason="queue-full") == 3


def test_only_the_names_of_bundles_become_labels() -> None:
    telemetry = Telemetry()
    telemetry.bundle("pos-en", "1", "int8", 0.5)
    names = [telemetry.known(name) for name in ("pos-en", "pos-en@2", "made-up", "made-up@1", "")]
    assert names == ["pos-en", "pos-en", "unknown", "unknown", "unknown"]


def test_an_unloaded_bundle_is_0() -> None:
    telemetry = Telemetry()
    telemetry.bundle("pos-en", "1", "int8", 0.5)
    telemetry.bundle_unloaded("pos-en", "1", "int8")
    assert value(telemetry, "seqserve_bundle_info", model="pos-en", version="1", variant="int8") == 0


def test_load_is_read_at_each_flush_and_0_once_the_bundle_is_unloaded() -> None:
    telemetry = Telemetry()
    ratios = iter((0.25, 0.75, 1.0))
    telemetry.bundle("pos-en", "1", "int8", 0.5)
    telemetry.load("pos-en", "1", saturation=lambda: next(ratios), queue_items=lambda: 7)
    labels = {"model": "pos-en", "version": "1"}
    assert value(telemetry, "seqserve_saturation_ratio", **labels) == 0.25
    assert value(telemetry, "seqserve_saturation_ratio", **labels) == 0.75
    assert value(telemetry, "seqserve_queue_items", **labels) == 7
    telemetry.bundle_unloaded("pos-en", "1", "int8")
    assert value(telemetry, "seqserve_queue_items", **labels) == 0
    assert value(telemetry, "seqserve_saturation_ratio", **labels) == 0
    assert value(telemetry, "seqserve_saturation_ratio", **labels) == 0


async def test_a_loaded_bundle_reports_its_saturation(tiny_kinds: Path) -> None:
    telemetry = Telemetry()
    engine = Engine.load(Settings(bundles=(str(tiny_kinds / "tiny-speller"),), device="cpu", queue_items=4), telemetry)
    runtime = engine.runtime_for("tag", None)
    with runtime.admit(inference_request(), 3):
        assert value(telemetry, "seqserve_saturation_ratio", model="tiny-speller", version="1") == 0.75
    assert value(telemetry, "seqserve_saturation_ratio", model="tiny-speller", version="1") == 0
    await engine.drain(5)


def test_a_bundle_has_its_version_and_variant() -> None:
    telemetry = Telemetry()
    telemetry.bundle("pos-en", "3", "int8", 0.5)
    assert value(telemetry, "seqserve_bundle_info", model="pos-en", version="3", variant="int8") == 1
    assert value(telemetry, "seqserve_bundle_load_seconds", model="pos-en", version="3") == 0.5


@pytest.mark.parametrize("seconds", [0.0, SECONDS[0], 0.0007, SECONDS[-1], 1e6])
def test_a_histogram_counts_as_prometheus_client_does(seconds: float) -> None:
    telemetry, registry = Telemetry(), prometheus.CollectorRegistry()
    expected = prometheus.Histogram("expected", "", registry=registry, buckets=SECONDS)
    expected.observe(seconds)
    ModelMetrics(telemetry, "m", "1").first_token(seconds)
    for bound in (*SECONDS, float("inf")):
        le = prometheus.utils.floatToGoString(bound)
        assert value(
            telemetry, "seqserve_first_token_seconds_bucket", model="m", version="1", le=le
        ) == registry.get_sample_value("expected_bucket", {"le": le})
    assert value(telemetry, "seqserve_first_token_seconds_sum", model="m", version="1") == seconds


def test_the_name_of_a_metric_ends_with_its_unit() -> None:
    units = ("_seconds", "_total", "_items", "_rows", "_ratio", "_slots", "_streams", "_workers", "_bytes", "_info")
    for metric in METRICS:
        assert metric.name.startswith("seqserve_")
        assert metric.name.endswith(units)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.about.endswith(".")


def test_a_failed_flush_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = Telemetry()
    telemetry.rejected("queue-full")
    telemetry.flush()
    with monkeypatch.context() as patch:
        patch.setattr(prometheus.Gauge, "set", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
        telemetry.rejected("queue-full")
        telemetry.load("m", "1", saturation=lambda: 0.5, queue_items=lambda: 7)
        with pytest.raises(OSError, match="no space"):
            telemetry.flush()
    assert value(telemetry, "seqserve_rejected_total", reason="queue-full") == 2
