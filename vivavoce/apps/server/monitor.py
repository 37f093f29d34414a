"""What the server is doing, in numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.responses import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from vivavoce.apps.server.places import Places
from vivavoce.apps.server.videos import Videos
from vivavoce.live.scheduler import Scheduler


class _Figures(Collector):
    def __init__(self, scheduler: Scheduler, places: Places, videos: Videos):
        self._scheduler, self._places, self._videos = scheduler, places, videos

    def collect(self) -> Iterable[Metric]:
        total = self._scheduler.totals
        yield GaugeMetricFamily("vivavoce_sessions", "Live sessions that are open.", value=self._places.taken)
        streams = len(self._scheduler.streams)
        yield GaugeMetricFamily("vivavoce_streams", "Streams whose frames are made, of whatever sessions.", value=streams)
        unfinished = self._videos.unfinished()
        yield GaugeMetricFamily("vivavoce_videos_unfinished", "Videos that wait or are being made.", value=unfinished)
        yield CounterMetricFamily("vivavoce_frames", "Frames of live sessions made.", value=total.made)
        yield CounterMetricFamily("vivavoce_frames_late", "Those made more than a frame's time late.", value=total.late)
        yield CounterMetricFamily("vivavoce_frames_left_out", "Frames left out for want of time.", value=total.left_out)
        yield CounterMetricFamily("vivavoce_lost_seconds", "Time given up as lost: sessions paused.", value=total.lost_seconds)
        yield CounterMetricFamily("vivavoce_busy_seconds", "Time spent on live frames.", value=total.busy_seconds)


def exposition(scheduler: Scheduler, places: Places, videos: Videos) -> Response:
    """The figures as Prometheus reads them, with those of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Figures(scheduler, places, videos))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
