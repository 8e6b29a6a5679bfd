"""The autoencoder and the latent cache."""

from anatodiff.autoencoders.autoencoder import Autoencoder, load_autoencoder, save_autoencoder
from anatodiff.autoencoders.latent_cache import ImageDataset, LatentDataset, encode_all, latent_scale

__all__ = [
    "Autoencoder",
    "ImageDataset",
    "LatentDataset",
    "encode_all",
    "latent_scale",
    "load_autoencoder",
    "save_autoencoder",
]
