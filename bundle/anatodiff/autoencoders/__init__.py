"""The autoencoders, our own and published ones, and the latent cache."""

from anatodiff.autoencoders.autoencoder import Autoencoder
from anatodiff.autoencoders.build import build_autoencoder
from anatodiff.autoencoders.clip import CLIPCodec
from anatodiff.autoencoders.codec import LatentCodec
from anatodiff.autoencoders.context import CONDITIONS, ContextCodec, ContextLayout, MapCodec, TokenCodec
from anatodiff.autoencoders.ct_dataset import CTDataset
from anatodiff.autoencoders.ct_latents import CTEncoded, CTLatents, context_of
from anatodiff.autoencoders.ct_requests import CTRequests
from anatodiff.autoencoders.files import save_autoencoder
from anatodiff.autoencoders.latent_cache import ImageDataset, LatentDataset, encode_all, latent_scale
from anatodiff.autoencoders.load import load_autoencoder
from anatodiff.autoencoders.monai_generative import read_monai_generative
from anatodiff.autoencoders.photographs import EmulatedPhotographs
from anatodiff.autoencoders.principal import PrincipalAutoencoder
from anatodiff.autoencoders.stable_diffusion import StableDiffusionAutoencoder
from anatodiff.autoencoders.tiny import TinyAutoencoder

__all__ = [
    "CONDITIONS",
    "Autoencoder",
    "CLIPCodec",
    "CTDataset",
    "CTEncoded",
    "CTLatents",
    "CTRequests",
    "ContextCodec",
    "ContextLayout",
    "EmulatedPhotographs",
    "ImageDataset",
    "LatentCodec",
    "LatentDataset",
    "MapCodec",
    "PrincipalAutoencoder",
    "StableDiffusionAutoencoder",
    "TinyAutoencoder",
    "TokenCodec",
    "build_autoencoder",
    "context_of",
    "encode_all",
    "latent_scale",
    "load_autoencoder",
    "read_monai_generative",
    "save_autoencoder",
]
