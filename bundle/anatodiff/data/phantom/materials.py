"""What devices are made of: attenuation of metals and plastics."""

from __future__ import annotations

import numpy as np

from .projection import DENSITY, ENERGIES, MASS_ATTENUATION

# Mass attenuation coefficients in cm^2/g at ENERGIES: J. H. Hubbell and S. M. Seltzer, "Tables of X-Ray Mass
# Attenuation Coefficients", NISTIR 5632 (NIST Standard Reference Database 126), Table 3. Densities in g/cm^3.
METAL_ATTENUATION = {
    "titanium": np.array([4.972, 2.214, 1.213, 0.7661, 0.4052]),
    "steel": np.array([8.176, 3.629, 1.958, 1.205, 0.5952]),  # as iron
    "barium": np.array([9.904, 24.57, 13.79, 8.511, 3.963]),  # the K edge at 37.4 keV is smeared out by the table
}
METAL_DENSITY = {"titanium": 4.51, "steel": 7.87}
BARIUM_SHARE, POLYMER_DENSITY = 0.07, 1.25  # by mass, of a catheter that is to be seen
POLYMER_SHARE = 0.9  # of soft tissue's mass attenuation
PLASTER_SHARE, PLASTER_DENSITY = 0.35, 0.75  # a dry cast, as a mineral like that of bone in a light fabric


def device_attenuation(material: str, energy: float) -> float:
    """Linear attenuation coefficient of a device's material.

    Args:
        material: "titanium", "steel", "catheter" (plastic with barium), "plastic" or "plaster".
        energy: effective energy, keV.

    Returns:
        mm^-1.
    """

    def at(table: np.ndarray) -> float:
        return float(np.exp(np.interp(np.log(energy), np.log(ENERGIES), np.log(table))))

    polymer = POLYMER_SHARE * at(MASS_ATTENUATION["soft"])
    if material == "catheter":
        return POLYMER_DENSITY * (BARIUM_SHARE * at(METAL_ATTENUATION["barium"]) + (1 - BARIUM_SHARE) * polymer) / 10
    if material == "plastic":
        return POLYMER_DENSITY * polymer / 10
    if material == "plaster":
        mixed = PLASTER_SHARE * at(MASS_ATTENUATION["bone"]) + (1 - PLASTER_SHARE) * at(MASS_ATTENUATION["soft"])
        return PLASTER_DENSITY * mixed / 10
    return METAL_DENSITY[material] * at(METAL_ATTENUATION[material]) / 10


def soft_attenuation(energy: float) -> float:
    """Linear attenuation coefficient of the tissue that an implant displaces.

    Args:
        energy: effective energy, keV.

    Returns:
        mm^-1.
    """
    values = np.log(MASS_ATTENUATION["soft"])
    return float(np.exp(np.interp(np.log(energy), np.log(ENERGIES), values))) * DENSITY["soft"] / 10
