"""Trackers: services that metrics are sent to besides `metrics.jsonl`, through accelerate."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # type: ignore[import-untyped]
from pydantic import Field

from rxrl.config import BaseConfig
from rxrl.errors import ConfigError, MissingExtraError, reason

_logger = logging.getLogger(__name__)
Service = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio"]


class TrackingConfig(BaseConfig):
    """Trackers that receive metrics in addition to `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = Field("off", description="Weights & Biases.")
    project: str = Field("rxrl", description="Project or experiment name in the services.")
    tensorboard: bool = Field(False, description="TensorBoard event files in the folder of the run.")
    services: tuple[Service, ...] = Field((), description="Further services, which must be installed and set up as they ask for it.")


class Tracker:
    """A service that receives metrics in addition to the JSONL file.

    Attributes:
        name: Of the service.
        id: Of the run there, for services that can go on with one.
    """

    name = "tracker"
    id: str | None = None

    def open(self, run_id: str | None = None) -> None:
        """Starts a run, or continues the one with that id."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Takes one line of metrics."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ends the run."""


def open_trackers(config: TrackingConfig, folder: Path, run: Mapping[str, Any]) -> tuple[Tracker, ...]:
    """The trackers that a run asks for; none of them has started yet.

    Args:
        config: Which.
        folder: Folder of the run; offline files go below it.
        run: Configuration that the trackers show.

    Raises:
        ConfigError: A service is not installed.
        MissingExtraError: Weights & Biases or TensorBoard is not installed.
    """
    trackers: list[Tracker] = []
    if config.wandb != "off":
        trackers.append(WandbTracker(config.project, dir=str(folder), mode=config.wandb, config=dict(run)))
    if config.tensorboard:
        trackers.append(ServiceTracker("tensorboard", "tensorboard", logging_dir=str(folder)))
    trackers += [ServiceTracker(name, config.project, settings=run) for name in config.services]
    return tuple(trackers)


class ServiceTracker(Tracker):
    """A service that accelerate knows; numbers go there under `phase/name`, at their iteration.

    Args:
        name: accelerate's name of the service.
        project: Name of the project or experiment there.
        settings: Configuration that it shows.
        options: For accelerate's tracker.
    """

    def __init__(self, name: str, project: str, settings: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.name, self._project, self._settings, self._options = name, project, settings, options
        self._tracker: Any = None
        try:
            import_module(name)
        except ImportError:
            if name in ("wandb", "tensorboard"):
                raise MissingExtraError(f"Tracking with {name}", name) from None
            raise ConfigError(f"Tracking with {name} needs the package {name}: install it, or leave it out.") from None

    def open(self, run_id: str | None = None) -> None:
        """Starts a run.

        Raises:
            ConfigError: The service refuses.
        """
        try:
            self._tracker = LOGGER_TYPE_TO_CLASS[self.name](self._project, **self._options)
            self._tracker.start()
            if self._settings is not None:
                self._tracker.store_init_configuration(dict(_flat(self._settings)))
        except Exception as error:
            self._tracker = None
            raise ConfigError(f"{self.name} does not start: {reason(error)} Set it up as it says, or leave it out.") from error

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Sends the numbers; a service that fails is left out from then on, with a warning."""
        phase = metrics.get("phase", "run")
        numbers = {f"{phase}/{key}": value for key, value in metrics.items() if isinstance(value, int | float)}
        if self._tracker is not None:
            try:
                self._send(numbers, int(metrics.get("iteration", 0)))
            except Exception as error:
                self._tracker = None
                _logger.warning("%s fails and gets no more metrics; metrics.jsonl has them all. %s", self.name, reason(error))

    def finish(self) -> None:
        """Ends the run."""
        if self._tracker is not None:
            self._tracker.finish()

    def _send(self, numbers: Mapping[str, float], iteration: int) -> None:
        self._tracker.log(dict(numbers), step=iteration)


class WandbTracker(ServiceTracker):
    """Weights & Biases; `mode="offline"` needs no key and no network (and cannot go on with a run: it starts another file of it)."""

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__("wandb", project, **options)
        self._options["resume"] = "allow" if options.get("mode") == "online" else None

    def open(self, run_id: str | None = None) -> None:
        """Starts a run under an id of its own, or goes on with the given one.

        Raises:
            ConfigError: Weights & Biases refuses.
        """
        self.id = self._options["id"] = run_id or uuid.uuid4().hex[:12]
        super().open(run_id)
        # Its own step only grows, and drops what a resumed run sends again.
        self._tracker.tracker.define_metric("*", step_metric="line")

    def _send(self, numbers: Mapping[str, float], iteration: int) -> None:
        self._tracker.log({**numbers, "line": iteration})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else str(value)
