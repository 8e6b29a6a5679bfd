"""The MONAI Label app: samples synthetic radiographs, and fine-tunes on the images of its datastore."""

from __future__ import annotations

from typing import Any

from monailabel.config import settings as server_settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from anatodiff import __version__
from lib.errors import RequestError
from lib.infers.sample import SampleTask
from lib.settings import AppSettings
from lib.trainers.train import FineTuneTask

SAMPLE, TRAIN = "anatodiff_sample", "anatodiff_train"
# Of the endings that are read, those that MONAI Label does not list by itself.
MORE_ENDINGS = ("*.dcm", "*.dicom", "*.ima", "*.jpeg")


class AnatoDiffApp(MONAILabelApp):
    """Serves `anatodiff_sample` and `anatodiff_train`.

    Args:
        app_dir: this folder, or a copy of it.
        studies: folder of images, or a DICOMweb address.
        conf: what was given by `--conf`, see `AppSettings`.
    """

    _datastore: Datastore

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.app_settings = AppSettings.read(app_dir, studies, conf)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="AnatoDiff",
            description="Synthetic radiographs, marked as such, from a network that is fine-tuned on few real ones",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """Open the datastore; in a folder DICOM files are listed, too."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return LocalDatastore(
            self.studies,
            extensions=[*server_settings.MONAI_LABEL_DATASTORE_FILE_EXT, *MORE_ENDINGS],
            auto_reload=server_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """Name what draws samples."""
        return {SAMPLE: SampleTask(self.app_settings)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Name what trains."""
        return {TRAIN: FineTuneTask(self.app_settings)}

    def init_strategies(self) -> dict[str, Strategy]:
        """None: nobody labels images here, so there is no next one to choose."""
        return {}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train on the images of the datastore: from DICOMweb as DICOM, whatever viewers get, as NIfTI has no patients.

        Args:
            request: `model`, and what `FineTuneTask` takes.

        Returns:
            what the training reached.
        """
        datastore, converts = self._datastore, server_settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI
        try:
            if converts and isinstance(datastore, DICOMWebDatastore):
                server_settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI = False
                self._datastore = self.init_datastore()
            return super().train(request)
        finally:
            self._datastore, server_settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI = datastore, converts

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Draw samples; an image of the datastore that a viewer names is not looked at, so it need not exist.

        Args:
            request: `model`, and what `SampleTask` takes.
            datastore: not looked at.

        Returns:
            the file and what is in it.
        """
        if request.get("save_label"):
            raise RequestError(
                422,
                "save_label: a synthetic radiograph is no label of an image and is not put into the datastore; "
                "leave save_label out and keep the file that is returned",
            )
        return super().infer({**request, "image": None}, datastore)
