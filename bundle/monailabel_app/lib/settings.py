"""Where the app finds its weights, the bundle's configs and the labels: what `--conf` may set."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path

from anatodiff.layout import bundle_root

ADAPTER_NAME = "adapter.safetensors"
LABELS_NAME = "labels.csv"
CONFIGS = ("train.json", "inference.json")
OWN_KEYS = ("server_mode",)  # of MONAI Label


class ConfError(ValueError):
    """`--conf` has a key that is not known, or names something that is not there."""


@dataclass(frozen=True)
class AppSettings:
    """What `--conf` may set; each is a path.

    Args:
        bundle_dir: folder that holds `configs/`; by default the bundle that is installed.
        model_dir: what trainings leave; by default `model/` in the app.
        adapter_path: what samples are drawn with; by default the last that was trained here.
        base_path: the base that adapters stand on; by default the one that ships.
        autoencoder_path: the autoencoder of that base; by default the one that ships.
        labels_path: table with the columns file,label; by default `labels.csv` in a folder of studies.
    """

    bundle_dir: Path
    model_dir: Path
    adapter_path: Path
    base_path: Path | None
    autoencoder_path: Path | None
    labels_path: Path | None

    @classmethod
    def read(cls, app_dir: str, studies: str, conf: dict[str, str]) -> AppSettings:
        """Read what was given by `--conf`, and fill in the rest.

        Args:
            app_dir: the app's folder.
            studies: folder of images, or a DICOMweb address.
            conf: key -> value.

        Returns:
            the settings.

        Raises:
            ConfError: names the key and the cure.
        """
        known = [field.name for field in fields(cls)]
        for key in conf:
            if key not in (*known, *OWN_KEYS):
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
                raise ConfError(f"--conf {key}: is not known; {hint}")
        given = {key: Path(conf[key]).expanduser().resolve() for key in known if conf.get(key)}
        for key, path in given.items():
            if key not in ("model_dir", "adapter_path") and not path.exists():
                raise ConfError(f"--conf {key} {path}: is not there; correct the path or leave the key out")
        model_dir = given.get("model_dir", Path(app_dir, "model"))
        beside = Path(studies, LABELS_NAME)
        settings = cls(
            bundle_dir=given.get("bundle_dir", bundle_root()),
            model_dir=model_dir,
            adapter_path=given.get("adapter_path", model_dir / ADAPTER_NAME),
            base_path=given.get("base_path"),
            autoencoder_path=given.get("autoencoder_path"),
            labels_path=given.get("labels_path", beside if beside.is_file() else None),
        )
        for name in CONFIGS:
            if not settings.config(name).is_file():
                raise ConfError(f"{settings.config(name)}: is not there; give --conf bundle_dir the bundle's folder")
        return settings

    def config(self, name: str) -> Path:
        """Name a config of the bundle."""
        return self.bundle_dir / "configs" / name

    def weights(self) -> dict[str, str | None]:
        """Name the weights below the adapter, as the configs' options."""
        paths = {"base_path": self.base_path, "autoencoder_path": self.autoencoder_path}
        return {name: None if path is None else str(path) for name, path in paths.items()}
